"""Whole comparisons of tiny models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from deltatune.comparing.crew import Crew
from deltatune.comparing.splits import split
from deltatune.comparing.study import compare
from deltatune.comparing.trials import Job, Trial
from deltatune.comparing.variants import variants
from deltatune.errors import ConfigError, DataError
from deltatune.train.config_file import load_config
from tests.cli import tiny
from tests.processes import CONTEXT, alone


def quietly(config: Path, methods: str, **settings: Any) -> Any:
    return compare(config, methods, progress=False, **settings)


def test_a_comparison_of_classifiers(classify: Path, folder: Path) -> None:
    found = quietly(classify, "base,lora,prompt,lora:targets=nowhere", seeds=(0, 1))
    base, lora, prompt, broken = found.rows
    assert found.metric == "accuracy"
    for row in (base, lora, prompt):
        assert row.failure is None
        assert len(row.scores["accuracy"].values) == 2
        assert row.scores["accuracy"].half is not None
        assert row.seconds > 0
        assert row.overhead > 0
        assert row.file_bytes > 0
        assert 50e6 < row.memory_bytes < 5e9
        assert [curve.seed for curve in row.curves] == [0, 1]
    assert base.tokens == lora.tokens == prompt.tokens
    assert not any("tokens" in note for note in found.notes)
    assert base.trainable_parameters == 2 * 32 + 2  # the head
    assert lora.trainable_parameters > base.trainable_parameters
    assert (lora.merge, lora.learning_rate) == (None, 1e-2)
    assert "acts on" in prompt.merge or prompt.merge
    assert broken.failure.startswith("target 'nowhere'")
    assert found.failed == (broken,)
    assert found.best() in (base, lora, prompt)
    plain = json.loads((folder / "out" / "results.json").read_text())
    assert plain == found.to_dict()
    for name in ("table.md", "report.html", "pareto.png"):
        assert (folder / "out" / name).stat().st_size > 500
    assert "target 'nowhere'" in (folder / "out" / "table.md").read_text()
    assert not list((folder / "out").rglob("checkpoint-*"))


def test_language_models_are_judged_by_their_loss_and_the_base_is_not_trained(write: Path) -> None:
    found = quietly(write, "base,full", seeds=(0,))
    base, full = found.rows
    assert (found.metric, found.higher_is_better) == ("loss", False)
    assert (base.tokens, base.learning_rate) == ((0,), None)
    assert (base.trainable_parameters, base.file_bytes, base.overhead) == (0, 0, 1.0)
    assert 0.7 < full.share < 0.8  # all but the output head
    assert full.scores["loss"].mean < base.scores["loss"].mean
    assert found.best() is full
    assert base.behind.mean == pytest.approx(base.scores["loss"].mean - full.scores["loss"].mean)
    assert "with one seed there is no interval" in found.notes[-1]


def test_the_search_picks_the_better_learning_rate(write: Path, folder: Path) -> None:
    found = quietly(write, "lora,ia3:learning_rate=0.5", seeds=(3,), learning_rates="1e-7,3e-2", search_share=0.25)
    lora, own = found.rows
    assert lora.learning_rate == 3e-2
    assert lora.tried["0.03"] < lora.tried["1e-07"]  # losses
    assert any("at the edge" in note for note in lora.notes)
    assert (own.learning_rate, own.tried) == (0.5, {})
    place = folder / "out" / "runs" / "lora" / "search,lr=0.03,seed=3"
    assert "search-train.jsonl" in (place / "config.yaml").read_text()
    assert [curve.searching for curve in lora.curves] == [True, True, False]


def test_more_may_be_added_and_what_is_done_is_not_done_again(classify: Path, folder: Path) -> None:
    quietly(classify, "bitfit", seeds=(0,))
    record = folder / "out" / "runs" / "bitfit" / "lr=0.01,seed=0" / "record.json"
    before = record.stat().st_mtime_ns
    found = quietly(classify, "bitfit,norm", seeds=(0, 1), metric="macro_f1")
    assert record.stat().st_mtime_ns == before
    assert [len(row.tokens) for row in found.rows] == [2, 2]
    assert found.metric == "macro_f1"


def test_other_settings_or_data_are_refused_unless_overwritten(classify: Path, folder: Path) -> None:
    quietly(classify, "bitfit", seeds=(0,))
    changed = tiny.write_config(
        folder,
        Path(json.loads((folder / "out" / "comparison.json").read_text())["base"]["model"]),
        data={"train": str(folder / "train.csv"), "eval": str(folder / "test.csv")},
        train={"epochs": 3, "batch_size": 8},
    )
    with pytest.raises(ConfigError, match=r"found others for train\.epochs; .*--overwrite"):
        quietly(changed, "bitfit", seeds=(0,))
    quietly(changed, "bitfit", seeds=(0,), overwrite=True)
    (folder / "test.csv").write_text(tiny.labelled(24))
    with pytest.raises(ConfigError, match="found others for data files"):
        quietly(changed, "bitfit", seeds=(0,))


def test_a_folder_of_something_else_is_refused(classify: Path, folder: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match="expected a new folder or a comparison's, found other files"):
        quietly(classify, "bitfit", output=bert)
    with pytest.raises(ConfigError, match="expected a folder, found a file"):
        quietly(classify, "bitfit", output=folder / "train.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, "seeds: expected different whole numbers from 0, found"),
        ({"seeds": (1, 1)}, "seeds: expected different whole numbers"),
        ({"metric": "bleu"}, "metric: expected one of accuracy, macro_f1, loss for a classifier, found 'bleu'"),
        ({"search_share": 1.5}, "search share: expected a share above 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused(classify: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quietly(classify, "lora", **settings)


def test_what_is_refused_leaves_the_results_that_are_there(classify: Path, folder: Path) -> None:
    quietly(classify, "bitfit", seeds=(0,))
    before = (folder / "out" / "results.json").read_bytes()
    with pytest.raises(ConfigError, match="metric"):
        quietly(classify, "bitfit", metric="bleu", overwrite=True)
    assert (folder / "out" / "results.json").read_bytes() == before


def test_data_to_judge_by_are_needed(folder: Path, llama: Path) -> None:
    with pytest.raises(ConfigError, match="expected data to judge by"):
        quietly(tiny.write_config(folder, llama), "lora")
    assert not (folder / "out").exists()
    with pytest.raises(DataError, match=r"gone\.jsonl: can not be read"):
        quietly(tiny.write_config(folder, llama, data={"eval": "gone.jsonl"}), "lora")


def test_a_run_that_diverges_is_a_failure_that_says_so(write: Path) -> None:
    (row,) = quietly(write, "lora:learning_rate=1e30", seeds=(0,)).rows
    assert "the run diverged" in row.failure


def test_a_learning_rate_that_diverges_is_the_worst_of_a_search(write: Path) -> None:
    (row,) = quietly(write, "lora", seeds=(0,), learning_rates=(1e-3, 1e30)).rows
    assert row.failure is None
    assert (row.learning_rate, row.tried["1e+30"]) == (1e-3, None)


# Processes.


@pytest.mark.slow
def test_a_run_in_a_fresh_process_is_the_same_run(write: Path, folder: Path, crew: Crew) -> None:
    """As where a fork is not safe."""
    config = load_config(write)
    splits = split(config, folder / "data", None)
    splits.write()
    trial = Trial(variants("lora", [])[0], 1e-3, 0)
    found = []
    for name in ("forked", "fresh"):
        job = Job("train", str(folder / name), trial.settings(config, splits, folder / name), trial.identity)
        if name == "forked":
            found.append(crew.do(job))
            continue
        command = [sys.executable, "-m", "deltatune.comparing.worker", "--one", job.to_line()]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.wait(60) == 0
        found.append(job.done() or {})
    same = [{name: each["metrics"][name] for name in ("eval_loss", "train_loss", "tokens")} for each in found]
    assert same[0] == same[1]


def _compare(config: str) -> None:
    with Crew() as hands:
        compare(config, "lora", seeds=(0, 1), progress=False, crew=hands)


def _wait_for(happened: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_comparison_that_was_killed_goes_on_to_the_same_results(folder: Path, llama: Path, crew: Crew) -> None:
    config = tiny.write_config(
        folder,
        llama,
        data={"eval": str(folder / "test.jsonl")},
        train={"max_steps": 60, "save_steps": 10, "eval_steps": 60, "learning_rate": 1e-3},
    )
    process = CONTEXT.Process(target=_compare, args=(str(config),))
    process.start()
    first, second = (folder / "out" / "runs" / "lora" / f"lr=0.001,seed={seed}" for seed in (0, 1))
    _wait_for(lambda: list(second.glob("checkpoint-*/trainer_state.json")))
    helpers = psutil.Process(process.pid).children(recursive=True)
    assert len(helpers) == 2  # the server and the run
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _wait_for(lambda: not any(helper.is_running() and helper.status() != "zombie" for helper in helpers), 10)
    assert not (second / "record.json").exists()
    done = (first / "record.json").stat().st_mtime_ns

    (row,) = compare(config, "lora", seeds=(0, 1), progress=False, crew=crew).rows
    assert (first / "record.json").stat().st_mtime_ns == done
    assert any("1 of its runs were interrupted; their time does not count" in note for note in row.notes)
    (whole,) = compare(config, "lora", seeds=(0, 1), progress=False, crew=crew, output=folder / "whole").rows
    assert row.scores == whole.scores
    assert row.tokens == whole.tokens
    assert row.curves == whole.curves


def test_a_run_that_is_killed_is_a_row_that_says_so(
    classify: Path, monkeypatch: pytest.MonkeyPatch, crew: Crew
) -> None:
    def kill(*_: object) -> None:
        for process in psutil.Process().children(recursive=True):
            if process.ppid() == server.pid:
                process.kill()

    assert crew._server is not None
    server = crew._server
    monkeypatch.setattr("deltatune.comparing.study.ComparisonProgress.watch", kill)
    found = compare(classify, "lora", seeds=(0,), progress=False, crew=_Impatient(crew))
    (row,) = found.rows
    assert row.failure.startswith("its process was killed by SIGKILL; the system kills what takes too much memory")
    monkeypatch.undo()
    (row,) = compare(classify, "lora", seeds=(0,), progress=False, crew=_Impatient(crew)).rows
    assert row.failure is None


class _Impatient(Crew):
    """Looks after runs often, so that even a short one is looked at."""

    def __init__(self, crew: Crew) -> None:
        self._server, self._answers = crew._server, crew._answers

    def do(self, job: Any, watch: Any = lambda: None, every: float = 0.01) -> dict[str, Any]:
        return super().do(job, watch, 0.01)

    def __exit__(self, *_: object) -> None:
        pass


# Memory.


def _peak(count: int) -> int:
    from deltatune.comparing.measuring import _peak_bytes

    held = bytearray(count)
    held[::4096] = b"x" * len(held[::4096])
    del held
    return _peak_bytes()


def test_the_peak_of_memory_is_that_of_the_process_alone() -> None:
    much, little = alone(_peak, 300_000_000), alone(_peak, 1000)
    assert 250_000_000 < much - little < 350_000_000
