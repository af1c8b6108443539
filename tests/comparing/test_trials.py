"""The settings of a run: every method gets the same examples in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deltatune.comparing.splits import SearchData, split
from deltatune.comparing.trials import Job, Trial
from deltatune.comparing.variants import variants
from deltatune.train import run as runs
from deltatune.train.config_file import load_config, parse_config
from deltatune.train.run_trainer import RunTrainer

DRAWING = "lora,adalora,child"
"""Methods that draw different numbers at random, or look at the data before the first step."""


@pytest.mark.parametrize("kind", ["classify", "write"])
def test_the_order_of_the_data_depends_on_the_seed_alone(
    kind: str, folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(request.getfixturevalue(kind), ["train.epochs=2"])
    splits = split(config, folder / "data", None)
    splits.write()
    seen: list[Any] = []
    step = RunTrainer.training_step

    def watched(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["packed"].input_ids.tolist() if "packed" in inputs else inputs["input_ids"].tolist())
        return step(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RunTrainer, "training_step", watched)
    orders: dict[int, list[Any]] = {0: [], 1: []}
    tokens = set()
    for seed, orders_of_seed in orders.items():
        for variant in variants(DRAWING if seed == 0 else "lora", []):
            seen.clear()
            place = folder / "runs" / variant.folder / str(seed)
            settings = Trial(variant, 1e-3, seed).settings(config, splits, place)
            tokens.add(runs.run(parse_config(settings), progress=False).metrics["tokens"])
            orders_of_seed.append(list(seen))
    for found in orders.values():
        assert found[0]
        assert all(order == found[0] for order in found)
    assert orders[0][0] != orders[1][0]
    assert len(tokens) == 1


def test_a_job_survives_the_way_to_its_process(folder: Path, write: Path) -> None:
    config = load_config(write)
    splits = split(config, folder / "data", SearchData())
    trial = Trial(variants("lora:targets=[query]", [])[0], 1e-3, 3, searching=True)
    job = Job("train", str(folder / trial.place), trial.settings(config, splits, folder), trial.identity)
    assert Job.from_line(job.to_line()) == job
    assert job.done() is None
    assert job.settings["train"]["learning_rate"] == 1e-3
    assert job.settings["data"]["train"].endswith("search-train.jsonl")


def test_places_differ_for_what_differs() -> None:
    one, other = variants("lora,lora:r=4", [])
    trials = [Trial(v, r, s, q) for v in (one, other) for r in (1e-3, 1.0001e-3) for s in (0, 1) for q in (True, False)]
    assert len({trial.place for trial in trials}) == len(trials)
