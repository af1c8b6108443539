"""A report that grows by a stage at a time, and is on the disk after each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.scoring.report import Report, read_report
from deltatune.apps.sql.scoring.scores import Outcome

__all__ = ["GrowingReport"]

Groups = Mapping[str, tuple[Outcome, ...]]


class GrowingReport:
    """The stages measured so far: in a file, and taken from there if it is of the same questions and setting.

    Args:
        file: as :meth:`Report.save` writes it; it need not be there, and one of other questions or of another setting
            is written over. `None`: nothing is kept.
        asked: the questions, by group.
        about: the setting, with all that outcomes follow from; see :class:`Report`.
        order: of the stages; others in the file come behind them.

    Raises:
        DataError: the file holds something else.
    """

    def __init__(
        self,
        file: Path | None,
        asked: Mapping[str, Sequence[Example]],
        about: Mapping[str, str | int | float | bool],
        order: Iterable[str],
    ) -> None:
        self.file = file
        self.order = list(order)
        self.about = dict(about)
        self._stages: dict[str, Groups] = {}
        if file is not None and file.exists():
            found = read_report(file)
            same = found.questions == {group: list(examples) for group, examples in asked.items()}
            if same and found.about == self.about:
                self._stages = dict(found.stages)

    def __contains__(self, stage: str) -> bool:
        """Whether a stage was measured."""
        return stage in self._stages

    def add(self, stage: str, outcomes: Groups) -> None:
        """Keep what became of the questions at a stage; it is on the disk when this returns."""
        self._stages[stage] = outcomes
        if self.file is not None:
            known = [name for name in self.order if name in self._stages]
            self.report(dict.fromkeys([*known, *self._stages])).save(self.file)

    def report(self, stages: Iterable[str]) -> Report:
        """The report of some stages, in this order."""
        return Report({stage: self._stages[stage] for stage in stages}, self.about)
