"""A run that is killed at any moment and resumed is the uninterrupted run, to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from deltatune.train import run as runs
from deltatune.train.config_file import load_config
from tests.cli import tiny
from tests.processes import alone, count_file_events, points

STEPS = 9
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "r": 2, "dropout": 0.3},
    "adalora": {"method": "adalora", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1, "dropout": 0.3},
    "relora": {"method": "relora", "r": 2, "restart_every": 4, "restart_warmup": 2, "prune": "random", "dropout": 0.3},
    "child-F": {"method": "child", "mode": "F"},
    "child-D": {"method": "child", "mode": "D", "p": 0.1},
}
"""What has to be as it was: dropout's random numbers; scores; rounds and the moments; masks; which entries train."""


class Killed(TrainerCallback):
    """Dies at a step: its gradients are there, and nothing of it is done."""

    last = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


class Case:
    """A method's run, uninterrupted in ``whole``, and its copies that are killed."""

    def __init__(self, folder: Path, base: Path, method: str) -> None:
        self.folder, self.method = folder, method
        tiny.write_jsonl(folder / "train.jsonl", tiny.pairs(20))
        train = {
            "max_steps": STEPS,  # of 5 an epoch, the last one short
            "save_steps": 2,
            "logging_steps": 1,
            "warmup_steps": 2,
            "weight_decay": 0.1,
            "gradient_accumulation": 2,
            "batch_size": 2,
            "save_total_limit": 2,
        }
        self.config = tiny.write_config(folder, base, delta=None, deltas=[METHODS[method]], train=train)
        self.events: int = self.run("whole", resume=False)

    def run(self, name: str, **options: Any) -> Any:
        """Run in a process of its own: how many file events there were, or ``None`` if it was killed."""
        return alone(_run, self.config, self.folder / name, options)

    def check(self, name: str) -> None:
        """Resume until the end, and compare with the whole run."""
        assert self.run(name, resume=True) is not None
        found, expected = (_left(self.folder / run) for run in (name, "whole"))
        assert found.keys() == expected.keys()
        for what, content in expected.items():
            assert found[what] == content, what


def _run(config: Path, folder: Path, options: dict[str, Any]) -> int:
    Killed.last = options.get("step", -1)
    own = runs.AtTheEnd

    class Ends(own, Killed):  # type: ignore[misc, valid-type]
        """A run's last callback, that may be the end of it."""

    runs.AtTheEnd = Ends  # type: ignore[misc]
    counted = count_file_events(folder, options.get("event"))
    runs.run(load_config(config, [f"output={folder}"]), resume=options["resume"], progress=False)
    return counted()


def _left(folder: Path) -> dict[str, Any]:
    """Everything that a run leaves behind, but how long it took and where it lies."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    other = ("config.yaml", "training_args.json", "loss.png", "metrics.json", "log.jsonl", "trainer_state.json")
    left: dict[str, Any] = {name: path.read_bytes() for name, path in files.items() if not name.endswith(other)}
    left["files"] = sorted(files)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    left["log"] = [_timeless(entry) for entry in log if "loss" in entry]  # beside these: what one process sums up
    assert [entry["step"] for entry in left["log"]] == list(range(1, STEPS + 1))
    left["metrics"] = _timeless(json.loads((folder / "metrics.json").read_text()))
    return left


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    own = ("train_runtime", "train_tokens_per_second", "seconds", "memory_bytes")
    return {name: value for name, value in entry.items() if name not in own}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    base = tiny.save_llama(tmp_path_factory.mktemp("bases") / "llama")
    made: dict[str, Case] = {}

    def make(method: str) -> Case:
        if method not in made:
            made[method] = Case(tmp_path_factory.mktemp(method), base, method)
        return made[method]

    return make


every_method = pytest.mark.parametrize("method", METHODS)


@every_method
def test_killed_at_a_step_and_again(method: str, case: Callable[[str], Case]) -> None:
    killed = case(method)
    step = random.Random(method).randrange(3, STEPS - 2)
    assert killed.run("steps", resume=False, step=step) is None
    [event] = points(method, killed.events // 3, 1)  # there are fewer from a checkpoint on
    assert killed.run("steps", resume=True, event=event) is None
    killed.check("steps")


@every_method
def test_killed_at_a_file_event(method: str, case: Callable[[str], Case]) -> None:
    killed = case(method)
    for event in points(method, killed.events, 2):
        assert killed.run(f"event-{event}", resume=False, event=event) is None
        killed.check(f"event-{event}")
