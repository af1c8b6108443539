"""What a comparison found, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatune.comparing.interval import Interval
from deltatune.comparing.quality import METRICS

__all__ = ["Comparison", "Curve", "Row"]


@dataclass(frozen=True)
class Curve:
    """The losses of one run."""

    learning_rate: float
    seed: int
    searching: bool
    """Whether the run was made to choose the learning rate."""
    train: tuple[tuple[int, float], ...]
    """Step and training loss."""
    eval: tuple[tuple[int, float], ...]
    """Step and loss on the evaluation data; of a search, on its share of the training data."""


@dataclass(frozen=True)
class Row:
    """What was found of one variant. Figures are `None` if it failed before they were known."""

    label: str
    """Its name: the method, and the settings that differ from the defaults."""
    key: str
    """The method's key, or `base`, `full` or `config`."""
    deltas: tuple[Mapping[str, Any], ...]
    """What was attached, as in a config."""
    learning_rate: float | None = None
    """What it was trained with; `None` for a base without a head."""
    tried: Mapping[str, float | None] = field(default_factory=dict)
    """Learning rates of the search to their quality; `None` for a run that diverged."""
    scores: Mapping[str, Interval] = field(default_factory=dict)
    """Each metric of the evaluation over the seeds."""
    behind: Interval | None = None
    """How far it is behind the best row, seed by seed; `None` for that row itself and for one that failed."""
    trainable_parameters: int | None = None
    share: float | None = None
    """Of the base's parameters."""
    memory_bytes: int | None = None
    """The most memory of a run's process; the median of the seeds."""
    seconds: float | None = None
    """Of training, with its evaluations; the median of the runs that were not interrupted."""
    tokens: tuple[int, ...] = ()
    """Trained on, in the run of each seed."""
    file_bytes: int | None = None
    """Of the saved tensors."""
    overhead: float | None = None
    """The time of a forward pass with the delta over that without it, before any merge."""
    merge: str | None = None
    """Why it can not be merged; `None` if it can, and then costs nothing."""
    failure: str | None = None
    """Why a run of it failed, in one line; the runs before that one still count."""
    notes: tuple[str, ...] = ()
    """What a reader should know of it."""
    curves: tuple[Curve, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Comparison:
    """What :func:`deltatune.compare` found."""

    folder: Path
    """Where it lies: results.json, table.md, report.html, pareto.png, the data and the runs."""
    metric: str
    """What the rows are judged by."""
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    """In the order in which they were asked for."""
    about: Mapping[str, Any]
    """The setting: the base, the data, the schedule, the machine."""
    notes: tuple[str, ...] = ()
    """What a reader should know of all rows."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return METRICS[self.metric]

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows of which a run failed."""
        return tuple(row for row in self.rows if row.failure)

    def quality(self, row: Row) -> Interval | None:
        """A row's value of the metric."""
        return row.scores.get(self.metric)

    def ranked(self) -> list[Row]:
        """The rows, the best first; then those of which a run failed, which prove less, and those without a result."""

        def place(row: Row) -> tuple[bool, float]:
            found = self.quality(row)
            mean = math.inf if found is None else -found.mean if self.higher_is_better else found.mean
            return found is None or row.failure is not None, mean

        return sorted(self.rows, key=place)

    def best(self) -> Row | None:
        """The best row of those of which no run failed, if any has a result."""
        first = next(iter(self.ranked()), None)
        return first if first and self.quality(first) and not first.failure else None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, as in `results.json`."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain | {"higher_is_better": self.higher_is_better}
