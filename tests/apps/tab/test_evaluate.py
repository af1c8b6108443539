"""The protocol, with models that are fast and do as they are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltatune.apps.tab.contenders import Contender, Lesson, contenders
from deltatune.apps.tab.evaluate import RESULTS, SEEDS, evaluate
from deltatune.apps.tab.results import Result, ResultFile
from deltatune.errors import ConfigError, DataError
from tests.apps.tab.frames import table


class Nearest:
    """Classes by the nearest mean of the first column. It keeps what it was asked."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        self.asked: Any = None
        self.classes_ = np.unique(lesson.labels)
        sizes = lesson.frame["size"].fillna(0.5)
        self.means = np.array([sizes[lesson.labels == label].mean() for label in self.classes_])

    def predict_proba(self, X: Any) -> Any:
        self.asked = X
        found = np.exp(-np.abs(X["size"].fillna(0.5).to_numpy()[:, None] - self.means))
        return found / found.sum(axis=1, keepdims=True)


def model(name: str, kept: list[Nearest] | None = None, **settings: Any) -> Contender:
    def fit(lesson: Lesson) -> Nearest:
        made = Nearest(lesson)
        if kept is not None:
            kept.append(made)
        return made

    return Contender(name, fit, **settings)


def failing(error: Exception) -> Callable[[Lesson], Nearest]:
    def fit(lesson: Lesson) -> Nearest:
        if lesson.shots == 4:
            raise error
        return Nearest(lesson)

    return fit


def test_every_model_has_the_same_rows() -> None:
    data = table(rows=100, classes=3)
    ours: list[Nearest] = []
    theirs: list[Nearest] = []
    models = [model("ours", ours, needs_shots=False), model("theirs", theirs, is_baseline=True)]
    report = evaluate([data], models, shots=(0, 6, None), seeds=(1, 2))
    zero_shot = [each for each in ours if each.lesson.shots == 0]
    learned = [each for each in ours if each.lesson.shots]
    assert (len(zero_shot), len(learned), len(theirs)) == (2, 4, 4)
    for one, other in zip(learned, theirs, strict=True):
        assert one.lesson.frame.index.tolist() == other.lesson.frame.index.tolist()
        assert one.asked.index.tolist() == other.asked.index.tolist()
        assert not set(one.lesson.frame.index) & set(one.asked.index)
    assert [each.lesson.labels.value_counts().tolist() for each in learned[::2]] == [[2, 2, 2]] * 2
    assert [len(each.lesson.frame) for each in learned[1::2]] == [80, 80]
    assert set(learned[0].asked.index) != set(learned[2].asked.index)
    assert [each.lesson.seed for each in learned] == [1, 1, 2, 2]
    assert report.baselines == ("theirs",)
    assert report.score("toy", "theirs", 0) is None
    score = report.score("toy", "theirs", None)
    assert score is not None
    assert (list(score.by_seed), score.rows, score.mean > 0.9) == ([1, 2], 80, True)


def test_the_papers_seeds_are_the_default() -> None:
    report = evaluate([table()], [model("ours")], shots=[4])
    assert report.seeds == SEEDS == (42, 1024, 0, 1, 32)


def test_test_rows_are_limited_the_same_way_for_all() -> None:
    kept: list[Nearest] = []
    report = evaluate([table()], [model("a", kept), model("b", kept)], shots=(4, 8), seeds=[3], test_rows=10)
    assert len({tuple(each.asked.index) for each in kept}) == 1
    assert {each.test_rows for each in report.results} == {10}
    assert report.about["test rows"] == "at most 10, drawn once for each seed"


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    kept: list[Nearest] = []
    told: list[tuple[int, int]] = []

    def run(**changes: Any) -> Any:
        kept.clear()
        settings = {"shots": (4, 8), "seeds": (1, 2), "folder": tmp_path} | changes
        return evaluate([table()], [model("ours", kept)], progress=lambda at, of, _: told.append((at, of)), **settings)

    first = run()
    assert (len(kept), told) == (4, [(1, 4), (2, 4), (3, 4), (4, 4)])
    assert (run().results, len(kept)) == (first.results, 0)
    lines = (tmp_path / RESULTS).read_text()
    (tmp_path / RESULTS).write_text(lines[:-20])  # the last line was not written to its end
    run()
    assert len(kept) == 1
    again = [json.loads(line) for line in (tmp_path / RESULTS).read_text().splitlines()]
    seconds = {"seconds": 0}
    assert [each | seconds for each in again] == [json.loads(line) | seconds for line in lines.splitlines()]
    run(shots=(4, 8, 16))
    assert len(kept) == 2
    run(test_rows=10)
    assert len(kept) == 4
    evaluate([table(rows=121)], [model("ours", kept)], shots=[4], seeds=[1], folder=tmp_path)
    assert len(kept) == 5


def test_a_failure_is_a_result_and_is_tried_again(tmp_path: Path) -> None:
    bad = Contender("bad", failing(RuntimeError("out of\nluck")))
    report = evaluate([table()], [bad, model("good")], shots=(1, 4, 8), seeds=[1], folder=tmp_path)
    reasons = {(each.model, each.shots): each.failure for each in report.failed}
    assert reasons.pop(("bad", 4)) == "RuntimeError: out of luck"
    assert all(reason and "shots: expected 0 or at least 2" in reason for reason in reasons.values())
    assert list(reasons) == [("bad", 1), ("good", 1)]
    assert report.score("toy", "bad", 8) is not None
    report = evaluate([table()], [model("bad")], shots=[4], seeds=[1], folder=tmp_path)
    assert not report.failed
    assert len((tmp_path / RESULTS).read_text().splitlines()) == 7


def test_nothing_can_be_stopped_by_a_failure_but_ctrl_c() -> None:
    def fit(lesson: Lesson) -> Nearest:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate([table()], [Contender("stopped", fit)], shots=[4], seeds=[1])


def test_other_files_are_not_added_to(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("my notes\n")
    with pytest.raises(DataError, match=r"results\.jsonl:1: expected a result of deltatune tab eval, found 'my notes'"):
        evaluate([table()], [model("ours")], folder=tmp_path)


def test_a_line_may_be_cut_within_a_letter(tmp_path: Path) -> None:
    file = ResultFile(tmp_path / RESULTS)
    first, second = Result("société", "a\u2028b", 4, 1, auc=0.5), Result("société", "ours", 4, 2, auc=0.6)
    file.add(first)
    whole = (tmp_path / RESULTS).read_bytes()
    file.add(second)
    written = (tmp_path / RESULTS).read_bytes()
    (tmp_path / RESULTS).write_bytes(written[: len(whole) + written[len(whole) :].index("é".encode()) + 1])
    again = ResultFile(tmp_path / RESULTS)
    assert (again.get(first.key), again.get(second.key)) == (first, None)
    assert (tmp_path / RESULTS).read_bytes() == whole


def test_results_are_told_apart_by_all_of_their_key() -> None:
    kept = ResultFile(None)
    kept.add(Result("toy", "ours", 4, 1, auc=0.5))
    assert kept.get(Result("toy", "ours", 4, 1).key) is not None
    for other in (Result("toy", "ours", None, 1), Result("toy", "ours", 4, 2), Result("toy", "ours", 4, 1, "new")):
        assert kept.get(other.key) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shots": []}, "shots: expected some, each once"),
        ({"shots": [4, 4]}, "shots: expected some, each once"),
        ({"shots": [-4]}, "shots: expected 0 or more, found -4"),
        ({"seeds": [1, 1]}, "seeds: expected some, each once"),
        ({"test_rows": 0}, "test_rows: expected at least 1, found 0"),
        ({"test_rows": 1}, "toy: expected enough rows of each class to split them"),
        ({"datasets": [table(), table()]}, "datasets: expected some, each once"),
        ({"datasets": [table(rows=3)]}, "toy: expected enough rows of each class to split them"),
        ({"models": "tabby"}, "found 'tabby'"),
        ({"models": [model("ours"), model("ours")]}, "models: expected some, each once"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        evaluate(**{"datasets": [table()], "models": [model("ours")], "shots": [4], "seeds": [1]} | changes)


def test_models_are_read_from_text() -> None:
    found = contenders("tabllm:base=x,method=bitfit,steps=3,encoder,forest")
    assert [each.label for each in found] == ["tabllm base=x method=bitfit steps=3", "encoder", "random forest"]
    assert [(each.is_baseline, each.needs_shots) for each in found] == [(False, False), (False, True), (True, True)]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("forest,forest", "expected each once, found 'random forest' twice"),
        ("lora:r=8", "found the method 'lora'; write tabllm:method=lora"),
        ("forest:trees=9", "expected no settings, found trees"),
        ("tabllm:tree=9", "tabllm: expected settings among .*, found 'tree'"),
        ("tabllm:method=lore", "method: expected one of .*, found 'lore'"),
        ("tabllm:serializer=prose", "expected .*'text'"),
        ("encoder:question=Why?", "encoder: expected settings among .*, found 'question'"),
        ("tabllm:steps=few", "steps: expected 0 or more, found 'few'"),
        ("tabllm:learning_rate=-1", "learning_rate: expected a number above 0, found -1"),
        ("tabllm:calibrate=foo", "calibrate: expected one of .*, found 'foo'"),
        ("tabllm:random_state=3", "tabllm: expected no random_state"),
    ],
)
def test_models_that_there_are_not(models: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contenders(models)
