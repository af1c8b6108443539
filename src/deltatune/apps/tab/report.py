"""The report of an evaluation: AUC over the seeds, and each model next to the best baseline on the same draws."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatune.apps.tab.results import Result
from deltatune.comparing.interval import Interval, interval
from deltatune.errors import DataError
from deltatune.io.atomic import write_json

__all__ = ["Paired", "Score", "TabReport", "read_report", "shots_text"]


@dataclass(frozen=True, slots=True)
class Score:
    """The AUC of a model over the seeds.

    Args:
        by_seed: the seeds that went well.
        rows: that were learned from, in the median of the seeds.
        seconds: of fitting and scoring, in the median of the seeds.
    """

    by_seed: Mapping[int, float]
    rows: float
    seconds: float

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds (n − 1); `None` for a single one."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True, slots=True)
class Paired:
    """A model next to the best baseline, seed by seed.

    Args:
        baseline: the one with the highest mean on these test rows.
        difference: the model's AUC minus the baseline's.
    """

    baseline: str
    difference: Interval

    @property
    def wins(self) -> int:
        """The seeds on which the model's AUC is the higher one."""
        return sum(value > 0 for value in self.difference.values)

    @property
    def verdict(self) -> str:
        """Whether the 95 % interval of the difference leaves out zero."""
        if self.difference.half is None or self.difference.low <= 0 <= self.difference.high:
            return "not told apart"
        return "higher" if self.difference.mean > 0 else "lower"


@dataclass(frozen=True, slots=True)
class TabReport:
    """What an evaluation found.

    Args:
        results: one for each data set, model, number of shots and seed.
        baselines: which of the models are baselines.
        about: the setting, plain values.

    Raises:
        DataError: there is no result.
    """

    results: tuple[Result, ...]
    baselines: tuple[str, ...] = ()
    about: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.results:
            raise DataError("report: expected at least one result, found none; baselines need shots above 0")

    @property
    def data(self) -> tuple[str, ...]:
        """The names of the data sets."""
        return tuple(dict.fromkeys(each.data for each in self.results))

    @property
    def models(self) -> tuple[str, ...]:
        """The models, with their settings."""
        return tuple(dict.fromkeys(each.model for each in self.results))

    @property
    def shots(self) -> tuple[int | None, ...]:
        """The numbers of shots, all rows last."""
        found = {each.shots for each in self.results}
        return tuple(sorted(found, key=lambda shots: (shots is None, shots)))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds."""
        return tuple(dict.fromkeys(each.seed for each in self.results))

    @property
    def failed(self) -> tuple[Result, ...]:
        """What failed."""
        return tuple(each for each in self.results if each.failure is not None)

    def score(self, data: str, model: str, shots: int | None) -> Score | None:
        """The AUC of a model over the seeds; `None` if there is none."""
        found = [
            (each, each.auc)
            for each in self.results
            if (each.data, each.model, each.shots) == (data, model, shots) and each.auc is not None
        ]
        if not found:
            return None
        return Score(
            {each.seed: auc for each, auc in found},
            statistics.median(each.rows for each, _ in found),
            statistics.median(each.seconds for each, _ in found),
        )

    def best(self, data: str, shots: int | None) -> str | None:
        """The model with the highest mean."""
        means = {model: score.mean for model in self.models if (score := self.score(data, model, shots)) is not None}
        return max(means, key=means.__getitem__, default=None)

    def compared(self, data: str, model: str, shots: int | None) -> Paired | None:
        """A model next to the best baseline that has a result for each of its seeds; `None` if there is none."""
        score = self.score(data, model, shots)
        if score is None or model in self.baselines:
            return None
        rivals = {
            name: rival.by_seed
            for name in self.baselines
            if (rival := self.score(data, name, shots)) is not None and rival.by_seed.keys() >= score.by_seed.keys()
        }
        if not rivals:
            return None
        best = max(rivals, key=lambda name: statistics.fmean(rivals[name][seed] for seed in score.by_seed))
        return Paired(best, interval([auc - rivals[best][seed] for seed, auc in score.by_seed.items()]))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: the means, the comparisons, and every result."""
        cells = [(data, model, shots) for data in self.data for model in self.models for shots in self.shots]
        scores = [_cell(cell) | _plain_score(score) for cell in cells if (score := self.score(*cell)) is not None]
        compared = [_cell(cell) | _plain_paired(pair) for cell in cells if (pair := self.compared(*cell)) is not None]
        return {
            "about": dict(self.about),
            "baselines": list(self.baselines),
            "scores": scores,
            "against the best baseline": compared,
            "results": [dataclasses.asdict(each) for each in self.results],
        }

    def save(self, file: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(file, self.to_dict())


def read_report(file: Path) -> TabReport:
    """Read what :meth:`TabReport.save` wrote; means and comparisons are computed anew.

    Raises:
        DataError: the file is no such report.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        results = tuple(Result(**each) for each in found["results"])
        return TabReport(results, tuple(found["baselines"]), found["about"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: expected a report as JSON, found {type(error).__name__}: {error}; check it") from None


def shots_text(shots: int | None) -> str:
    """A number of shots as it is written."""
    return "all" if shots is None else str(shots)


def _cell(cell: tuple[str, str, int | None]) -> dict[str, Any]:
    return dict(zip(("data", "model", "shots"), cell, strict=True))


def _plain_score(score: Score) -> dict[str, Any]:
    return {
        "mean": score.mean,
        "deviation": score.deviation,
        "seeds": list(score.by_seed),
        "rows": score.rows,
        "seconds": score.seconds,
    }


def _plain_paired(pair: Paired) -> dict[str, Any]:
    return {
        "baseline": pair.baseline,
        "difference": pair.difference.mean,
        "half": pair.difference.half,
        "wins": pair.wins,
        "seeds": len(pair.difference.values),
        "verdict": pair.verdict,
    }
