"""One run of a comparison: its settings, its folder, and what is known of it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deltatune.comparing.splits import Splits
from deltatune.comparing.variants import Variant
from deltatune.train.config import RunConfig

__all__ = ["Job", "Kind", "Trial", "read_json"]

Kind = Literal["train", "inspect"]

RECORD, INSPECTED, FAILURE, LOG = "record.json", "inspected.json", "failure.json", "process.log"
"""What a process leaves in the run's folder: what the run took and reached, what using the delta costs, why it failed,
and what it printed."""


@dataclass(frozen=True)
class Trial:
    """One variant at one learning rate with one seed."""

    variant: Variant
    learning_rate: float
    seed: int
    searching: bool = False
    """Whether it is run to choose the learning rate, on a part of the training data."""

    @property
    def place(self) -> Path:
        """Its folder, below that of the runs."""
        name = f"lr={self.learning_rate!r},seed={self.seed}"
        return Path(self.variant.folder) / (f"search,{name}" if self.searching else name)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this run and no other of the comparison, as plain data."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self) | {"variant": None}))
        return plain | {"deltas": json.loads(json.dumps(self.variant.deltas))}

    def settings(self, config: RunConfig, splits: Splits, folder: Path) -> dict[str, Any]:
        """The settings of the run, as plain data: the comparison's, with its own in their places.

        Args:
            config: the comparison's.
            splits: its data.
            folder: where the run is to lie.
        """
        train = config.train.model_dump(mode="json")
        # By length, as a run would have it, the order would hang on what a method has drawn at random before.
        order = {"train_sampling_strategy": "random", "data_seed": self.seed}
        train |= {"learning_rate": self.learning_rate, "seed": self.seed, "extra": {**train["extra"], **order}}
        train["save_total_limit"] = train["save_total_limit"] or 1
        if self.searching:
            train["eval_steps"] = _NEVER  # but at the end
        return {
            "base": config.base.model_dump(mode="json"),
            "deltas": [dict(delta) for delta in self.variant.deltas],
            "data": splits.data(config.data, searching=self.searching),
            "train": train,
            "output": str(folder),
        }


_NEVER = 10**9


@dataclass(frozen=True)
class Job:
    """What a process is to do: train a run, or look at what one has trained."""

    kind: Kind
    folder: str
    """The run's."""
    settings: dict[str, Any]
    """The run's; without deltas it is the base's."""
    identity: dict[str, Any]

    @property
    def answer(self) -> Path:
        """The file that the process writes last."""
        return Path(self.folder) / (RECORD if self.kind == "train" else INSPECTED)

    @property
    def failure(self) -> Path:
        """The file that it writes if it fails."""
        return Path(self.folder) / FAILURE

    def done(self) -> dict[str, Any] | None:
        """What it has answered, if it was done before and was this job."""
        found = read_json(self.answer)
        return found if found.get("identity") == self.identity else None

    def to_line(self) -> str:
        """As a line of JSON."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Job:
        """The job of such a line."""
        return cls(**json.loads(line))


def read_json(file: Path) -> dict[str, Any]:
    """What a file of JSON holds, or nothing if it is missing or holds something else."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
