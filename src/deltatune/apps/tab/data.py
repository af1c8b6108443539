"""A table with its classes, and what to ask about a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TabData", "Table"]


class TabData(Protocol):
    """What can be classified: a `Table`, or a data set of `deltatune.apps.tab.datasets`."""

    @property
    def name(self) -> str:
        """How reports call it."""

    @property
    def frame(self) -> pd.DataFrame:
        """The rows, without their classes."""

    @property
    def labels(self) -> pd.Series:
        """The class of each row."""

    @property
    def question(self) -> str | None:
        """What to ask a language model about a row; `None`: its class, by the column's name."""

    @property
    def answers(self) -> Mapping[Any, str] | None:
        """What is said for each class; `None`: the classes as they are."""

    @property
    def units(self) -> Mapping[str, str]:
        """Of columns."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its classes.

    Args:
        name: how reports call it.
        frame: the rows, without their classes.
        labels: the class of each row.
        question: what to ask a language model about a row. Default: its class, by the column's name.
        answers: what is said for each class. Default: the classes as they are.
        units: of columns. Default: as the names of columns tell them.
    """

    name: str
    frame: pd.DataFrame
    labels: pd.Series
    question: str | None = None
    answers: Mapping[Any, str] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
