"""What a database holds: tables, columns, types, comments, keys and samples, as dataclasses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from deltatune.errors import DataError

__all__ = [
    "Column",
    "Database",
    "ForeignKey",
    "Selection",
    "Table",
    "everything",
    "foreign_keys",
    "parse_database",
    "part_of",
    "with_first",
]

Selection: TypeAlias = Mapping[str, tuple[str, ...]]
"""Tables and the columns of each, both in the schema's order."""
ForeignKey: TypeAlias = tuple[tuple[str, str], tuple[str, str]]
"""A table and column, and the table and column that it points to."""

TYPES = {"t": "text", "i": "int", "r": "real", "d": "date"}
_Named = TypeVar("_Named", "Column", "Table")
_TABLE = re.compile(r"(\w+): (.+)")
_COLUMN = re.compile(r"(\w+) ([tird])(\*?)(?:>(\w+)\.(\w+))? (.+)")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: as the database spells it.
        type: "text", "int", "real" or "date" in our own databases; otherwise the type's name in that database.
        comment: what it means, empty if nobody said.
        key: whether it is part of the primary key.
        references: the table and column that it points to.
        samples: a few of its values.
    """

    name: str
    type: str
    comment: str = ""
    key: bool = False
    references: tuple[str, str] | None = None
    samples: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One table or view."""

    name: str
    columns: tuple[Column, ...]
    comment: str = ""

    def column(self, name: str) -> Column:
        """The column of that name, in any letter case.

        Raises:
            DataError: there is none.
        """
        return _named(self.columns, name, f"table {self.name}", "column")


@dataclass(frozen=True, slots=True)
class Database:
    """All tables of a database."""

    name: str
    tables: tuple[Table, ...]
    comment: str = ""

    def table(self, name: str) -> Table:
        """The table of that name, in any letter case.

        Raises:
            DataError: there is none.
        """
        return _named(self.tables, name, f"database {self.name}", "table")


def everything(schema: Database) -> Selection:
    """All tables with all columns."""
    return {table.name: tuple(column.name for column in table.columns) for table in schema.tables}


def part_of(schema: Database, selection: Selection) -> Database:
    """Some tables with some columns each."""
    tables = (
        replace(table, columns=tuple(column for column in table.columns if column.name in selection[table.name]))
        for table in schema.tables
        if table.name in selection
    )
    return replace(schema, tables=tuple(tables))


def with_first(schema: Database, tables: Collection[str]) -> Database:
    """The database with some of its tables before the others."""
    return replace(schema, tables=tuple(sorted(schema.tables, key=lambda table: table.name not in tables)))


def foreign_keys(schema: Database) -> Iterator[ForeignKey]:
    """Each column that points to another one: its place, and the other's; both as the schema spells them."""
    places = {
        (table.name.casefold(), column.name.casefold()): (table.name, column.name)
        for table in schema.tables
        for column in table.columns
    }
    for table in schema.tables:
        for column in table.columns:
            if column.references:
                target = places.get((column.references[0].casefold(), column.references[1].casefold()))
                if target:
                    yield (table.name, column.name), target


def parse_database(name: str, text: str) -> Database:
    """Read a database in the short form of `finance/*.txt`.

    The first line is the database's comment. A table starts with `name: comment`, and its columns follow, one a line:
    `name type comment`, where the type is t(ext), i(nteger), r(eal) or d(ate), then `*` if it is part of the key, then
    `>table.column` if it points there.

    Raises:
        DataError: a line has another form, or points to a column that does not come before it.
    """
    comment, *lines = text.strip().splitlines()
    tables: list[tuple[str, str, list[Column]]] = []
    known: set[tuple[str, str]] = set()
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        if start := _TABLE.fullmatch(line):
            tables.append((start[1], start[2], []))
            continue
        found = _COLUMN.fullmatch(line)
        if not found or not tables:
            raise DataError(f"{name}, line {number}: expected `name type comment`, found {line!r}; correct it")
        column, kind, key, table, target, meaning = found.groups()
        references = (table, target) if table else None
        if references and references not in known:
            raise DataError(f"{name}, line {number}: expected an earlier column, found {table}.{target}; move it up")
        known.add((tables[-1][0], column))
        tables[-1][2].append(Column(column, TYPES[kind], meaning, bool(key), references))
    return Database(name, tuple(Table(table, tuple(columns), about) for table, about, columns in tables), comment)


def _named(items: Sequence[_Named], name: str, owner: str, kind: str) -> _Named:
    for item in items:
        if item.name.casefold() == name.casefold():
            return item
    known = ", ".join(item.name for item in items)
    raise DataError(f"{owner}: expected a {kind} among {known}, found {name!r}; choose one of them")
