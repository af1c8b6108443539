"""A serializer that knows a table: what its columns hold, which are left out, what is permuted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, TypeAlias

import pandas as pd
from pydantic import ConfigDict

from deltatune.apps.tab.columns import ColumnInfo
from deltatune.apps.tab.serialize.cells import words_of
from deltatune.apps.tab.serialize.permute import Bins, Words
from deltatune.apps.tab.serialize.serializer import Serializer, parsed
from deltatune.apps.tab.serialize.styles import JOINED, SAID
from deltatune.apps.tab.serialize.template import parse_template
from deltatune.errors import DataError

__all__ = ["FittedSerializer"]

_Row: TypeAlias = Sequence[str | None]


@dataclass(frozen=True, slots=True)
class FittedSerializer:
    """How the rows of one table become text.

    Args:
        serializer: the settings.
        columns: all columns of the table, with what was told of each, and why it is left out if it is.
        permuted: what becomes of the values of columns, by name, where values are permuted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    serializer: Serializer
    columns: tuple[ColumnInfo, ...]
    permuted: Mapping[str, Words | Bins] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[ColumnInfo, ...]:
        """The columns that texts say."""
        return tuple(column for column in self.columns if not column.left_out)

    def describe(self) -> str:
        """A line for each column: its kind, and what tells it."""
        return "\n".join(map(str, self.columns))

    def texts(self, frame: pd.DataFrame) -> list[str]:
        """Each row as text.

        Args:
            frame: rows with the columns that the serializer was fitted to; others are ignored.

        Raises:
            DataError: a column is missing.
        """
        cells = [self._cells(frame, column) for column in self.kept]
        rows = zip(*cells, strict=True) if cells else [()] * len(frame)
        write, join, note = self._writer(), JOINED[self.serializer.style], self.serializer.note
        return [join(part for part in (note, write(row)) if part) for row in rows]

    def within(self, budget: int, count: Callable[[str], int], frame: pd.DataFrame) -> FittedSerializer:
        """Leave out the columns that say least about the class, until every row fits.

        Of columns that say as much, or of all if that is not known, the last ones go first; before any of them, those
        that are too long alone.

        Args:
            budget: the largest count of a row.
            count: such as a text's tokens.
            frame: the rows that have to fit.

        Raises:
            DataError: not even one column fits.
        """
        reasons = {column.name: _least(column, budget) for column in self.kept}

        def only(columns: Sequence[ColumnInfo]) -> FittedSerializer:
            kept = {column.name for column in columns}
            return self._without({name: reason for name, reason in reasons.items() if name not in kept})

        def fits(columns: Sequence[ColumnInfo]) -> bool:
            return all(count(text) <= budget for text in only(columns).texts(frame))

        if fits(self.kept):
            return self
        order = [column for column in self.kept if fits([column])]
        too_long = [column for column in self.kept if column not in order]
        reasons |= {column.name: f"alone it has more than {budget} tokens" for column in too_long}
        order.sort(key=lambda column: -(column.information or 0.0))
        most, too_many = 0, len(order) + 1
        while too_many - most > 1:
            middle = (most + too_many) // 2
            most, too_many = (middle, too_many) if fits(order[:middle]) else (most, middle)
        if not most:
            raise DataError(f"budget: expected room for a column, found {budget} tokens; raise it or shorten the rows")
        return only(order[:most])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> FittedSerializer:
        """All of it from JSON.

        Raises:
            ConfigError: it has another form.
        """
        return parsed(cls, settings)

    def _without(self, reasons: Mapping[str | int, str]) -> FittedSerializer:
        """Without some columns, and why each of them is left out."""
        columns = (replace(c, left_out=reasons[c.name]) if c.name in reasons else c for c in self.columns)
        return replace(self, columns=tuple(columns))

    def _cells(self, frame: pd.DataFrame, column: ColumnInfo) -> list[str | None]:
        """What each row says of a column, with its unit where the template does not have it."""
        settings = self.serializer
        words = words_of(frame, column, settings, self.permuted.get(str(column.name)))
        if not column.unit or settings.style == "custom":
            return words
        space = "" if column.unit[0] in "%°" else " "
        return [None if word is None else f"{word}{space}{column.unit}" for word in words]

    def _writer(self) -> Callable[[_Row], str]:
        """What makes a text of a row's words."""
        settings, missing = self.serializer, self.serializer.missing
        if settings.template is not None:
            template = parse_template(settings.template)
            names = [str(column.name) for column in self.kept]
            nothing = dict.fromkeys(template.columns)  # what is left out is as if it were missing in all rows
            return lambda row: template.fill(nothing | dict(zip(names, row, strict=True)), missing)
        one, join = SAID[settings.style], JOINED[settings.style]
        said = [column.said for column in self.kept]

        def write(row: _Row) -> str:
            cells = ((name, missing if word is None else word) for name, word in zip(said, row, strict=True))
            return join(one(name, word) for name, word in cells if word is not None)

        return write


def _least(column: ColumnInfo, budget: int) -> str:
    """Why a column is left out before others."""
    least = "last" if column.information is None else f"says least about the class, {column.information:.2g} nats"
    return f"{least}, and rows would have more than {budget} tokens"
