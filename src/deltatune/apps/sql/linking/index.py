"""Writing the file that value linking looks values up in: one pass over the text columns of a database."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlglot import exp

from deltatune.apps.sql.guard import is_askable
from deltatune.apps.sql.linking.words import can_be_misspelt, fold
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.schema import Database

__all__ = ["FORMAT", "LONGEST", "MOST_VALUES", "IndexedColumn", "write_index"]

FORMAT = 1
LONGEST = 80  # letters of a value; longer ones are sentences that no question repeats
MOST_VALUES = 200_000  # distinct ones of a column
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*", re.DOTALL)
_TABLES = """
CREATE TABLE about (format INTEGER, database TEXT);
CREATE TABLE place (id INTEGER PRIMARY KEY, "table" TEXT, "column" TEXT, number INTEGER, left_out TEXT);
CREATE TABLE value (
    id INTEGER PRIMARY KEY, place INTEGER NOT NULL, value TEXT NOT NULL, folded TEXT NOT NULL, UNIQUE (place, value)
);
CREATE TABLE word (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE);
"""
_INDEXES = """
CREATE INDEX said ON value (folded);
CREATE VIRTUAL TABLE near USING fts5 (word, content='word', content_rowid='id', tokenize='trigram');
INSERT INTO near (near) VALUES ('rebuild');
"""


@dataclass(frozen=True, slots=True)
class IndexedColumn:
    """A text column of the database.

    Args:
        table: its table.
        column: its name.
        values: how many distinct ones of it are in the index.
        left_out: what was left out of the index, empty if nothing was.
    """

    table: str
    column: str
    values: int
    left_out: str = ""


def write_index(reader: Reader, path: Path, most_values: int) -> None:
    """Write the index of a database to a new file, which is of no use before this returns.

    Rows are streamed and the file finds out which values are new, so memory does not grow with the database.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)
        connection.execute("BEGIN")
        connection.execute("INSERT INTO about VALUES (?, ?)", (FORMAT, reader.schema.name))
        for table, columns in _text_columns(reader.schema):
            filling = [_Filling(connection, table, column, most_values) for column in columns]
            reader.stream(_query(table, columns, reader.dialect), _taker(filling))
            for each in filling:
                each.finish()
        connection.execute("COMMIT")
        connection.executescript(_INDEXES)


class _Filling:
    """A column whose values are being collected."""

    def __init__(self, connection: sqlite3.Connection, table: str, column: str, most: int) -> None:
        self._connection = connection
        self._most = most
        self._number = 0
        self._long = False
        self._full = False
        row = connection.execute('INSERT INTO place ("table", "column") VALUES (?, ?)', (table, column))
        self._place = row.lastrowid

    def add(self, values: set[Any]) -> None:
        """Take the values that are new, unless there have been too many."""
        if self._full:
            return
        texts = {value for value in values if isinstance(value, str) and not _DATE.fullmatch(value)}
        short = {value for value in texts if len(value) <= LONGEST}
        self._long |= len(short) < len(texts)
        rows = [(self._place, value, folded) for value in sorted(short) if (folded := fold(value))]
        insert = "INSERT OR IGNORE INTO value (place, value, folded) VALUES (?, ?, ?)"
        self._number += self._connection.executemany(insert, rows).rowcount if rows else 0
        spelt = {word for *_, folded in rows for word in folded.split() if can_be_misspelt(word)}
        self._connection.executemany(
            "INSERT OR IGNORE INTO word (word) VALUES (?)", [(word,) for word in sorted(spelt)]
        )
        if self._number > self._most:
            self._connection.execute("DELETE FROM value WHERE place = ?", (self._place,))
            self._number, self._full = 0, True

    def finish(self) -> None:
        """Note what became of the column."""
        left_out = f"all: more than {self._most:,} values" if self._full else ""
        if self._long and not self._full:
            left_out = f"values of more than {LONGEST} letters"
        change = "UPDATE place SET number = ?, left_out = ? WHERE id = ?"
        self._connection.execute(change, (self._number, left_out, self._place))


def _text_columns(schema: Database) -> Iterator[tuple[str, list[str]]]:
    """What is indexed. Values of a column that points to another one are found in that one."""
    for table in schema.tables:
        columns = [column.name for column in table.columns if column.type == "text" and not column.references]
        if columns and is_askable(table.name):
            yield table.name, columns


def _query(table: str, columns: Sequence[str], dialect: str) -> str:
    """All rows, with no more of each value than shows that it is too long."""
    whole = [exp.column(column, quoted=True) for column in columns]
    short = [exp.Substring(this=c, start=exp.convert(1), length=exp.convert(LONGEST + 1)) for c in whole]
    return exp.select(*short).from_(exp.table_(table, quoted=True)).sql(dialect=dialect)


def _taker(filling: Sequence[_Filling]) -> Callable[[Sequence[tuple[Any, ...]]], None]:
    def take(rows: Sequence[tuple[Any, ...]]) -> None:
        for column, values in zip(filling, zip(*rows, strict=True), strict=True):
            column.add(set(values))

    return take
