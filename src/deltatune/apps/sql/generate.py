"""Writing our databases: the same values to SQLite, DuckDB or PostgreSQL, streamed, so that size costs no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.engine import URL
from sqlalchemy.schema import CreateTable, SetColumnComment, SetTableComment

from deltatune.apps.sql.finance import Source, database, source
from deltatune.apps.sql.schema import Database, Table
from deltatune.apps.sql.urls import dialect_of, file_of, parse_url
from deltatune.errors import ConfigError
from deltatune.io.atomic import atomic_files

__all__ = ["generate", "metadata", "rows"]

BUFFER = 100_000  # rows held before they are written
ARRAYS: dict[str, Any] = {"text": object, "int": np.int64, "real": np.float64, "date": "datetime64[D]"}
SQL_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "text": sa.Text,
    "int": sa.BigInteger,
    "real": sa.Double,
    "date": sa.Date,
}
Columns = Mapping[str, NDArray[Any]]


class Writer(Protocol):
    """Puts rows into one database."""

    def __call__(self, table: Table, columns: Columns) -> None:
        """Append the rows, given column by column."""


def generate(name: str, target: str | Path, *, size: str = "small", seed: int = 0) -> dict[str, int]:
    """Make one of our databases. A file appears whole or not at all; in PostgreSQL it is one transaction.

    Args:
        name: "funds", "equities" or "macro".
        target: a path to a .sqlite, .db or .duckdb file, which must not exist, or an address of SQLAlchemy's.
        size: "tiny" (for tests), "small", "medium" or "large" (millions of rows).
        seed: which values are drawn; the same seed gives the same values in every kind of database.

    Returns:
        The number of rows by table.

    Raises:
        ConfigError: the name or size is unknown, or the target exists.
    """
    schema, chosen = database(name), source(name)
    if size not in chosen.sizes:
        raise ConfigError(f"size: expected one of {', '.join(chosen.sizes)}, found {size!r}; choose one of them")
    counts = dict.fromkeys((table.name for table in schema.tables), 0)
    with _writer(parse_url(target), schema) as write:
        for table, columns in _buffered(schema, chosen, size, seed):
            write(table, columns)
            counts[table.name] += len(next(iter(columns.values())))
    return counts


def rows(name: str, size: str, seed: int = 0) -> Iterator[tuple[Table, Columns]]:
    """The rows of one of our databases, as pieces of typed columns in the order of the foreign keys."""
    schema, chosen = database(name), source(name)
    for table_name, values in chosen.rows(chosen.sizes[size], seed):
        table = schema.table(table_name)
        yield table, {column.name: np.asarray(values[column.name], ARRAYS[column.type]) for column in table.columns}


def metadata(schema: Database) -> sa.MetaData:
    """The schema as SQLAlchemy's tables, with keys and comments."""
    found = sa.MetaData()
    for table in schema.tables:
        columns = [
            sa.Column(
                column.name,
                SQL_TYPES[column.type],
                *([sa.ForeignKey(".".join(column.references))] if column.references else []),
                primary_key=column.key,
                autoincrement=False,
                comment=column.comment,
            )
            for column in table.columns
        ]
        sa.Table(table.name, found, *columns, comment=table.comment)
    return found


def _buffered(schema: Database, chosen: Source, size: str, seed: int) -> Iterator[tuple[Table, Columns]]:
    """Larger pieces, in the order of the tables, so that what is pointed to is there first."""
    held: dict[str, list[Columns]] = {}
    count = 0

    def emptied() -> Iterator[tuple[Table, Columns]]:
        for table in schema.tables:
            if pieces := held.pop(table.name, None):
                names = [column.name for column in table.columns]
                yield table, {name: np.concatenate([piece[name] for piece in pieces]) for name in names}

    for table, columns in rows(schema.name, size, seed):
        held.setdefault(table.name, []).append(columns)
        count += len(next(iter(columns.values())))
        if count >= BUFFER:
            yield from emptied()
            count = 0
    yield from emptied()


@contextmanager
def _writer(url: URL, schema: Database) -> Iterator[Writer]:
    match dialect_of(url):
        case "postgres":
            with _postgres(url, schema) as write:
                yield write
        case kind:
            path = file_of(url, exists=False)
            if path.exists():
                raise ConfigError(f"database: expected a new file, found {path}; delete it, or write to another")
            opened = _sqlite if kind == "sqlite" else _duckdb
            with atomic_files(path.parent) as folder, opened(folder / path.name, schema) as write:
                yield write


@contextmanager
def _sqlite(path: Path, schema: Database) -> Iterator[Writer]:
    engine = sa.create_engine(URL.create("sqlite", database=str(path)), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")  # a file that is not finished is thrown away
        for table in metadata(schema).sorted_tables:
            connection.exec_driver_sql(_commented(table))

        def write(table: Table, columns: Columns) -> None:
            marks = ", ".join("?" for _ in table.columns)
            values = [_text_dates(_plain(column)) for column in columns.values()]
            connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(zip(*values, strict=True)))

        yield write


def _commented(table: sa.Table) -> str:
    """SQLite has no comments on tables, but keeps the text of the statement that made them."""
    lines = str(CreateTable(table).compile(dialect=URL.create("sqlite").get_dialect()())).strip().splitlines()
    meant = {column.name: column.comment for column in table.columns}
    commented = [
        f"{line.rstrip()} -- {meant[line.split()[0]]}" if line.strip() and line.split()[0] in meant else line
        for line in lines
    ]
    return "\n".join([f"{commented[0]} -- {table.comment}", *commented[1:]])


@contextmanager
def _duckdb(path: Path, schema: Database) -> Iterator[Writer]:
    import duckdb
    import pyarrow  # type: ignore[import-untyped]

    connection = duckdb.connect(str(path))
    try:
        for statement in _statements(schema):
            connection.execute(statement)

        def write(table: Table, columns: Columns) -> None:
            arrays = {name: pyarrow.array(values, from_pandas=True) for name, values in columns.items()}
            connection.register("piece", pyarrow.table(arrays))
            connection.execute(f"INSERT INTO {table.name} SELECT * FROM piece")
            connection.unregister("piece")

        yield write
    finally:
        connection.close()


@contextmanager
def _postgres(url: URL, schema: Database) -> Iterator[Writer]:
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        present = set(sa.inspect(connection).get_table_names()) & {table.name for table in schema.tables}
        if present:
            raise ConfigError(f"database: expected no table {min(present)}, found it; drop it or use another database")
        driver: Any = connection.connection.driver_connection
        for statement in _statements(schema):
            driver.execute(statement)

        def write(table: Table, columns: Columns) -> None:
            values = [_plain(column) for column in columns.values()]
            with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} FROM STDIN") as copy:
                for row in zip(*values, strict=True):
                    copy.write_row(row)

        yield write


def _statements(schema: Database) -> Iterator[str]:
    """What makes the tables in PostgreSQL, which DuckDB understands too."""
    dialect = URL.create("postgresql+psycopg").get_dialect()()
    for table in metadata(schema).sorted_tables:
        made: list[Any] = [CreateTable(table), SetTableComment(table), *map(SetColumnComment, table.columns)]
        for statement in made:
            yield str(statement.compile(dialect=dialect)).replace("%%", "%")  # doubled for statements with parameters


def _plain(column: NDArray[Any]) -> Sequence[Any]:
    """Python's own values, with None for what is missing."""
    values = column.tolist()
    return [None if x != x else x for x in values] if column.dtype.kind == "f" else values


def _text_dates(values: Sequence[Any]) -> Sequence[Any]:
    return [x.isoformat() if hasattr(x, "isoformat") else x for x in values]
