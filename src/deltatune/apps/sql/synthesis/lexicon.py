"""What a database is about: how its tables and columns are called, which role each column has, and its real values."""

from __future__ import annotations

import datetime
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from typing import Literal, TypeAlias

import sqlglot
from sqlglot import exp

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.run import Limits, QueryError, Reader
from deltatune.apps.sql.schema import Column, Table
from deltatune.apps.sql.synthesis.words import Meaning, is_plural, meaning, owner, plural, singular, spoken

__all__ = ["Lexicon", "Link", "Role", "Value", "literal"]

Value: TypeAlias = str | int | float
Role: TypeAlias = Literal["key", "name", "flag", "category", "text", "date", "year", "level", "number", "other"]
POOL = 400  # values of a column that are kept
FEW = 25  # different texts that make a category
LEVELS = 12  # different whole numbers that make a level
LOOKING = Limits(seconds=120)  # counting the different values of a large table takes its time
_THING = re.compile(r"(.+) (?:of the (.+)|(?:that|where) the (\w+) .+)")


@dataclass(frozen=True, slots=True)
class Link:
    """How to go from one table to another.

    Args:
        pairs: columns of this table with those of the other that they equal.
        target: the other table.
    """

    pairs: tuple[tuple[str, str], ...]
    target: str


@dataclass(frozen=True, slots=True)
class _Counts:
    rows: int
    filled: int
    different: int
    least: Value | None


class Lexicon:
    """The words and values of one database. What is read from it is kept.

    Args:
        reader: the database.
    """

    def __init__(self, reader: Reader) -> None:
        self.tables = tuple(sorted(reader.schema.tables, key=lambda table: table.name))
        self._reader = reader
        self._counts: dict[str, dict[str, _Counts]] = {}
        self.values: Callable[[Table, Column], tuple[Value, ...]] = cache(self._values)
        self.role: Callable[[Table, Column], Role] = cache(self._role)
        self.name: Callable[[Table], Column | None] = cache(self._name)
        self.meaning: Callable[[Table, Column], Meaning] = cache(self._meaning)
        self.links: Callable[[Table], tuple[Link, ...]] = cache(self._links)

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)

    def keys(self, table: Table) -> tuple[Column, ...]:
        """The primary key."""
        return tuple(column for column in table.columns if column.key)

    def is_entity(self, table: Table) -> bool:
        """Whether a row is a thing of its own, told apart by one key that points nowhere."""
        keys = self.keys(table)
        return len(keys) == 1 and keys[0].references is None

    def noun(self, table: Table) -> str:
        """What a row of an entity is called."""
        keys = self.keys(table)
        known = owner(meaning(keys[0].comment, keys[0].name).noun) if len(keys) == 1 else ""
        return known or singular(spoken(table.name))

    def rows(self, table: Table) -> str:
        """What several rows are called."""
        if self.is_entity(table):
            return plural(self.noun(table))
        if not table.comment:
            return plural(singular(spoken(table.name)))
        topic = self.topic(table)
        uncountable = " and " in topic and not topic.endswith("s")
        return topic if is_plural(topic) and not uncountable else f"records of {topic}"

    def topic(self, table: Table) -> str:
        """What a table is about."""
        return re.sub(r" by \w+$", "", table.comment.split(",")[0]) or spoken(table.name)

    def nouns(self, table: Table) -> frozenset[str]:
        """All that a row is called in the comments of its table."""
        found = {owner(meaning(column.comment, column.name).noun) for column in table.columns if not column.references}
        names = {self.noun(table), *found} - {""}
        return frozenset(names | {name.split()[-1] for name in names})

    def date(self, table: Table) -> Column | None:
        """The date or year that tells the rows of one entity apart."""
        dated = [column for column in table.columns if column.key and self.role(table, column) in ("date", "year")]
        return dated[0] if len(dated) == 1 and len(self.keys(table)) > 1 else None

    def step(self, table: Table) -> str:
        """How far apart the dates of one entity usually are: "day", "month", "quarter" or "year"."""
        column = self.date(table)
        if column is None or self.role(table, column) == "year":
            return "year"
        days = [datetime.date.fromisoformat(str(value)[:10]).toordinal() for value in self.values(table, column)]
        gap = (max(days) - min(days)) / max(1, len(days) - 1)
        return next((name for name, most in (("day", 20), ("month", 60), ("quarter", 150)) if gap < most), "year")

    def is_panel(self, table: Table) -> bool:
        """Whether the dates of a table are shared: on one date there are rows of several entities."""
        column = self.date(table)
        return (
            column is not None
            and self._counted(table)[column.name].rows >= 3 * self._counted(table)[column.name].different
        )

    def full(self, table: Table, column: Column) -> bool:
        """Whether every row has a value."""
        counts = self._counted(table)[column.name]
        return counts.filled == counts.rows

    def positive(self, table: Table, column: Column) -> bool:
        """Whether all values are above zero, so that one can divide by them."""
        least = self._counted(table)[column.name].least
        return isinstance(least, (int, float)) and least > 0

    def run(self, sql: str) -> list[tuple[Value | None, ...]]:
        """The rows of a query written for SQLite, with plain values."""
        text = sqlglot.transpile(sql, read="sqlite", write=self._reader.dialect)[0]
        return [tuple(_plain(value) for value in row) for row in self._reader.run(text, LOOKING).rows]

    def _counted(self, table: Table) -> dict[str, _Counts]:
        if table.name not in self._counts:
            asked = ["COUNT(*)"]
            for column in table.columns:
                name = quoted(column.name)
                least = f"MIN({name})" if column.type in ("int", "real") else "NULL"
                asked += [f"COUNT({name})", f"COUNT(DISTINCT {name})", least]
            row = self._row(table, f"SELECT {', '.join(asked)} FROM {quoted(table.name)}", len(asked))
            whole = [value if isinstance(value, int) else 0 for value in row]
            self._counts[table.name] = {
                column.name: _Counts(whole[0], whole[3 * i + 1], whole[3 * i + 2], row[3 * i + 3])
                for i, column in enumerate(table.columns)
            }
        return self._counts[table.name]

    def _row(self, table: Table, sql: str, width: int) -> tuple[Value | None, ...]:
        """What a table is asked for at once; nothing of a table that can not be counted, so that it is left out."""
        try:
            (row,) = self.run(sql)
        except QueryError as error:
            warnings.warn(f"{table.name}: no questions are made about it: {error}", stacklevel=2)
            return (None,) * width
        return row

    def _values(self, table: Table, column: Column) -> tuple[Value, ...]:
        """Different values, evenly taken by rank where there are many."""
        different = self._counted(table)[column.name].different
        name = quoted(column.name)
        held = f"SELECT DISTINCT {name} AS v FROM {quoted(table.name)} WHERE {name} IS NOT NULL"
        ranked = f"SELECT v, ROW_NUMBER() OVER (ORDER BY v) AS place FROM ({held}) AS held"
        rows = self.run(f"SELECT v FROM ({ranked}) AS ranked WHERE place % {1 + different // POOL} = 0")
        found = [row[0] for row in rows if row[0] is not None]
        return tuple(sorted(found, key=lambda value: (isinstance(value, str), value)))  # databases sort in their ways

    def _meaning(self, table: Table, column: Column) -> Meaning:
        """What its comment says, without naming the table's thing again.

        Where two columns of a table are called the same, the unit tells them apart.
        """
        own = meaning(column.comment, column.name)
        others = [meaning(other.comment, other.name).noun for other in table.columns if other is not column]
        if own.noun in others and own.unit:
            return replace(own, noun=f"{own.noun} in {'percent' if own.unit == '%' else own.unit}")
        known = _THING.fullmatch(own.noun)
        if known and known[1] not in others and (known[2] or known[3]) in self.nouns(table):
            return replace(own, noun=known[1])
        return own

    def _links(self, table: Table) -> tuple[Link, ...]:
        targets: dict[str, list[tuple[str, str]]] = defaultdict(list)
        known = {other.name for other in self.tables}
        for column in table.columns:
            if column.references and column.references[0] in known:
                targets[column.references[0]].append((column.name, column.references[1]))
        found: list[Link] = []
        for target, pairs in targets.items():
            # Columns that lead to different columns of one table are one key; to the same column, keys of their own.
            together = len({other for _, other in pairs}) == len(pairs)
            found += [Link(tuple(pairs), target)] if together else [Link((pair,), target) for pair in pairs]
        return tuple(found)

    def _name(self, table: Table) -> Column | None:
        """The column by which people call a row: a short name before a name."""

        def rank(column: Column) -> int:
            words = meaning(column.comment, column.name).noun
            if column.type != "text" or column.references or column.key:
                return 0
            counts = self._counted(table)[column.name]
            if 2 * counts.different < counts.filled and self.is_entity(table):
                return 0
            return 3 if words.startswith("short name") else 2 if re.search(r"\bname\b|\btitle\b", words) else 0

        best = max(table.columns, key=rank)
        return best if rank(best) else None

    def _role(self, table: Table, column: Column) -> Role:
        counts = self._counted(table)[column.name]
        own = meaning(column.comment, column.name)
        if column.references:
            return "key"
        if column.type not in ("text", "int", "real", "date") or not counts.different:
            return "other"
        values = self.values(table, column)
        if all(map(_is_day, values)):
            return "date"
        if column.type == "text":
            if not all(isinstance(value, str) for value in values):
                return "other"
            if column.key and len(self.keys(table)) == 1:
                return "key"
            if column is self.name(table):
                return "name"
            if counts.different > 1 and (
                own.values or (counts.different <= FEW and 2 * counts.different <= counts.rows)
            ):
                return "category"
            return "text" if counts.different > 1 else "other"
        if column.type == "date" or not all(isinstance(value, (int, float)) for value in values):
            return "other"
        return "number" if column.type == "real" else self._whole(table, column, own, counts)

    def _whole(self, table: Table, column: Column, own: Meaning, counts: _Counts) -> Role:
        values = [int(value) for value in self.values(table, column)]
        if own.clause and set(values) <= {0, 1}:
            return "flag"
        if re.search(r"\byears?\b", own.noun) and min(values) >= 1900 and max(values) <= 2100:
            return "year"
        if column.key and not own.noun.startswith(("rank", "quarter", "month")):
            return "key"
        return "level" if counts.different <= LEVELS else "number"


def _is_day(value: Value) -> bool:
    """Whether a value is a day as ISO 8601 has it; SQLite holds anything under the type DATE."""
    try:
        return isinstance(value, str) and datetime.date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def literal(value: Value) -> str:
    """A value as SQL has it."""
    return exp.convert(value).sql(dialect="sqlite")


def _plain(value: object) -> Value | None:
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()[:10]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value if value is None or isinstance(value, (int, float)) else str(value)
