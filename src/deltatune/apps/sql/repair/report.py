"""What a repair tells: what was mended, what came out, and why it may still be no query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlglot import exp
from sqlglot.errors import ErrorLevel

__all__ = ["Repair", "Repaired", "Values", "shown"]


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that was mended.

    Args:
        kind: "text", "keyword", "clause", "dialect", "repeat", "table", "alias", "column", "owner", "join", "grouping"
            or "value".
        before: how it was written.
        after: how it is written now, empty if it was dropped.
    """

    kind: str
    before: str
    after: str

    def __str__(self) -> str:
        """In a line."""
        if not self.before or not self.after:
            return f"{self.kind}: {'added' if self.after else 'dropped'} {_line(self.after or self.before)}"
        return f"{self.kind}: {_line(self.before)} -> {_line(self.after)}"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A query after repair.

    Args:
        sql: what is to be run, or the text as it was if nothing could be made of it.
        repairs: all that was mended, in order.
        problem: why it still is no query of the schema, ``None`` if it is one.
    """

    sql: str
    repairs: tuple[Repair, ...] = ()
    problem: str | None = None


class Values(Protocol):
    """Knows the values that a database holds."""

    def closest(self, table: str, column: str, value: str) -> str | None:
        """The value of that column that was most likely meant, or ``None`` to leave it as it is."""


def shown(node: exp.Expr, dialect: str = "") -> str:
    """A part of a query as it is told in a report, which need not run."""
    return node.sql(dialect=dialect, comments=False, unsupported_level=ErrorLevel.IGNORE)


def _line(text: str) -> str:
    return " ".join(text.split())
