"""The report of an ablation: the same questions at several stages, each with one more part than the one before."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.scoring.scores import Outcome, Scores, scores, scores_by
from deltatune.apps.sql.scoring.share import Paired, Share, paired
from deltatune.errors import DataError
from deltatune.io.atomic import write_json

__all__ = ["Report", "read_report"]

Groups = Mapping[str, tuple[Outcome, ...]]


@dataclass(frozen=True, slots=True)
class Report:
    """What became of every question at every stage.

    Args:
        stages: outcomes by stage and by group of questions, such as `{"base": {"unseen database": (...)}}`. The first
            stage is what the others are built on; all have the same questions in the same order.
        about: the setting, such as the model and the seed; plain values.

    Raises:
        DataError: there is no stage, a group without a question, or two stages have not the same questions.
    """

    stages: Mapping[str, Groups]
    about: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups = next(iter(self.stages.values()), {})
        if not groups or not all(groups.values()):
            raise DataError("report: expected a stage, and at least one question in each group, found none; add some")
        first, *others = self.stages
        for name in others:
            if _questions(self.stages[name]) != _questions(self.stages[first]):
                raise DataError(
                    f"report: expected the questions of {first} at every stage, found others at {name}; "
                    "ask all stages the same"
                )

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups of questions."""
        return tuple(next(iter(self.stages.values())))

    @property
    def questions(self) -> dict[str, list[Example]]:
        """The questions, by group."""
        return _questions(next(iter(self.stages.values())))

    @property
    def steps(self) -> list[tuple[str, str]]:
        """Which stages are compared, the earlier first: each with the next, and the first with the last."""
        names = list(self.stages)
        return [*pairwise(names), *([(names[0], names[-1])] if len(names) > 2 else [])]

    def scores(self, stage: str, group: str) -> Scores:
        """How many questions of a group a stage answered."""
        return scores(self.stages[stage][group])

    def by_difficulty(self, stage: str, group: str) -> dict[str, Scores]:
        """The same for each difficulty, the easiest first."""
        return scores_by(self.stages[stage][group], lambda each: each.example.difficulty or "unknown")

    def compared(self, stage: str, before: str, group: str) -> Paired:
        """Execution accuracy of two stages, question by question."""
        now, then = (self.stages[name][group] for name in (stage, before))
        return paired((each.executed_right for each in now), (each.executed_right for each in then))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data: what was counted, and every outcome."""
        counted = [
            {"stage": stage, "group": group, "by_difficulty": {kind: _plain(own) for kind, own in kinds.items()}}
            | _plain(self.scores(stage, group))
            for stage in self.stages
            for group in self.groups
            for kinds in [self.by_difficulty(stage, group)]
        ]
        changes = [
            {"stage": stage, "before": before, "group": group} | _plain_paired(self.compared(stage, before, group))
            for before, stage in self.steps
            for group in self.groups
        ]
        outcomes = {
            stage: {group: [_plain_outcome(each) for each in found] for group, found in groups.items()}
            for stage, groups in self.stages.items()
        }
        return {"about": dict(self.about), "scores": counted, "changes": changes, "outcomes": outcomes}

    def save(self, file: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(file, self.to_dict())


def read_report(file: Path) -> Report:
    """Read what :meth:`Report.save` wrote; what was counted is counted anew.

    Raises:
        DataError: the file is no such report.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        stages = {
            stage: {group: tuple(map(_outcome, outcomes)) for group, outcomes in groups.items()}
            for stage, groups in found["outcomes"].items()
        }
        return Report(stages, found["about"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: expected a report as JSON, found {type(error).__name__}: {error}; check it") from None


def _questions(groups: Groups) -> dict[str, list[Example]]:
    return {name: [each.example for each in outcomes] for name, outcomes in groups.items()}


def _plain(found: Scores) -> dict[str, dict[str, float]]:
    return {part.name: _plain_share(getattr(found, part.name)) for part in dataclasses.fields(found)}


def _plain_share(found: Share) -> dict[str, float]:
    return {"right": found.right, "total": found.total, "low": found.low, "high": found.high}


def _plain_paired(found: Paired) -> dict[str, Any]:
    return dataclasses.asdict(found) | {"p_value": found.p_value, "verdict": found.verdict}


def _plain_outcome(found: Outcome) -> dict[str, Any]:
    plain = dataclasses.asdict(found)
    path = found.example.path
    plain["example"]["path"] = None if path is None else str(path)
    return plain


def _outcome(plain: dict[str, Any]) -> Outcome:
    path = plain["example"]["path"]
    example = Example(**plain["example"] | {"path": None if path is None else Path(path)})
    return Outcome(**plain | {"example": example, "repairs": tuple(plain["repairs"])})
