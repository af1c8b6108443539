"""Reading the schema of a database: tables, types, comments, keys, and a few values of each column."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from deltatune.apps.sql.embedded import open_duckdb, open_sqlite
from deltatune.apps.sql.guard import is_askable
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.apps.sql.urls import dialect_of, file_of, parse_url
from deltatune.errors import ConfigError, first_line

__all__ = ["read_database", "read_engine"]

SCANNED = 1_000  # rows that samples are taken from
LONGEST_SAMPLE = 80  # letters
_NAME = re.compile(r'\s*(?:"([^"]+)"|`([^`]+)`|\[([^\]]+)\]|([^\s,]+))')
_TYPES = (
    ("int", re.compile(r"INT|SERIAL", re.IGNORECASE)),
    ("real", re.compile(r"REAL|DOUB|FLOA|DEC|NUM", re.IGNORECASE)),
    ("text", re.compile(r"CHAR|TEXT|CLOB", re.IGNORECASE)),
    ("date", re.compile(r"DATE$", re.IGNORECASE)),
)


def read_database(source: str | Path, *, samples: int = 3, only: Collection[str] | None = None) -> Database:
    """Read the schema of a SQLite, DuckDB or PostgreSQL database, opened for reading only.

    SQLite keeps no comments, but it keeps the statement that made a table: a comment at the end of a column's line is
    taken for the column's, and one at the end of the first line for the table's.

    Tables that no query may read are left out. So are those that can not be read, with a warning: views of what is not
    there any more, or tables that this user may not see.

    Args:
        source: a path to a .sqlite, .db or .duckdb file, or an address of SQLAlchemy's.
        samples: how many different values of each column to keep.
        only: the tables to read. Default: all.

    Raises:
        ConfigError: there is no such database.
    """
    url = parse_url(source)
    match dialect_of(url):
        case "duckdb":
            return _read_duckdb(file_of(url), samples, only)
        case "sqlite":
            path = file_of(url)
            opened = sa.create_engine("sqlite://", creator=lambda: open_sqlite(path), poolclass=sa.NullPool)
            return read_engine(opened, path.stem, samples=samples, only=only)
        case _:
            opened = sa.create_engine(
                url.set(drivername="postgresql+psycopg"),
                connect_args={"options": "-c default_transaction_read_only=on"},
                poolclass=sa.NullPool,
            )
            return read_engine(opened, url.database or "postgres", samples=samples, only=only)


def read_engine(engine: Engine, name: str, *, samples: int = 3, only: Collection[str] | None = None) -> Database:
    """Read the schema of any database that SQLAlchemy can inspect.

    Args:
        engine: how to reach it.
        name: what to call it.
        samples: how many different values of each column to keep.
        only: the tables to read. Default: all.

    Raises:
        ConfigError: it can not be reached.
    """
    with warnings.catch_warnings(), _connected(engine) as connection:
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # types that SQLAlchemy has no class for
        inspector = sa.inspect(connection)
        names = [*inspector.get_table_names(), *inspector.get_view_names()]
        wanted = [table for table in names if is_askable(table) and (only is None or table in only)]
        read = [_read_if_allowed(connection, inspector, table, samples) for table in wanted]
    return Database(name, tuple(table for table in read if table is not None))


def _connected(engine: Engine) -> sa.Connection:
    try:
        return engine.connect()
    except sa.exc.OperationalError as error:
        reason = first_line(error.orig or error)
        raise ConfigError(f"database: expected a connection to {engine.url}, found {reason!r}; check it") from None


def _read_if_allowed(connection: sa.Connection, inspector: sa.Inspector, name: str, samples: int) -> Table | None:
    try:
        with connection.begin_nested():  # where one statement fails, PostgreSQL takes no more in the same transaction
            return _read_table(connection, inspector, name, samples)
    except sa.exc.DBAPIError as error:
        _tell_left_out(name, error.orig or error)
        return None


def _tell_left_out(table: str, error: BaseException) -> None:
    warnings.warn(f"table {table}: left out, for it can not be read: {first_line(error)}", stacklevel=2)


def _read_table(connection: sa.Connection, inspector: sa.Inspector, name: str, samples: int) -> Table:
    keys = set(inspector.get_pk_constraint(name)["constrained_columns"])
    targets = {
        own: (key["referred_table"], other)
        for key in inspector.get_foreign_keys(name)
        for own, other in zip(key["constrained_columns"], key["referred_columns"], strict=False)
    }
    comments = _written_comments(connection, name) if connection.dialect.name == "sqlite" else {}
    try:
        about = inspector.get_table_comment(name)["text"] or ""
    except NotImplementedError:
        about = comments.get("", "")
    columns = tuple(
        Column(
            column["name"],
            _type(column["type"]),
            column.get("comment") or comments.get(column["name"], ""),
            column["name"] in keys,
            targets.get(column["name"]),
            _samples(connection, name, column["name"], samples),
        )
        for column in inspector.get_columns(name)
    )
    return Table(name, columns, about)


def _written_comments(connection: sa.Connection, table: str) -> dict[str, str]:
    """The comments in the statement that made a table, by column; that of the table under the empty name."""
    query = "SELECT sql FROM sqlite_master WHERE name = ?"
    statement = connection.exec_driver_sql(query, (table,)).scalar() or ""
    found = {}
    for number, line in enumerate(str(statement).splitlines()):
        before, mark, comment = line.partition(" -- ")
        if mark and number == 0:
            found[""] = comment.strip()
        elif mark and (name := _NAME.match(before)):
            found[next(filter(None, name.groups()))] = comment.strip()
    return found


def _samples(connection: sa.Connection, table: str, column: str, count: int) -> tuple[object, ...]:
    if not count:
        return ()
    value: sa.ColumnClause[Any] = sa.column(column)
    few = sa.select(value).select_from(sa.table(table)).where(value.is_not(None)).limit(SCANNED).subquery()
    found = connection.execute(sa.select(few.c[column]).distinct().limit(count)).scalars()
    return tuple(_short(x) for x in found)


def _short(value: object) -> object:
    return value[:LONGEST_SAMPLE] if isinstance(value, (str, bytes)) else value


def _type(kind: object) -> str:
    try:
        text = str(kind)
    except sa.exc.CompileError:
        return "unknown"
    return next((name for name, pattern in _TYPES if pattern.search(text)), text.lower())


def _read_duckdb(path: Path, samples: int, only: Collection[str] | None) -> Database:
    with closing(open_duckdb(path)) as connection:
        import duckdb  # the line above tells if it is missing

        def rows(sql: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql).fetchall()

        ours = "WHERE NOT internal AND schema_name = 'main'"  # queries name tables alone, so they read no other schema
        comments = dict(rows(f"SELECT table_name, comment FROM duckdb_tables() {ours}"))
        comments |= dict(rows(f"SELECT view_name, comment FROM duckdb_views() {ours}"))
        keys: set[tuple[str, str]] = set()
        targets: dict[tuple[str, str], tuple[str, str]] = {}
        for table, kind, own, other, theirs in rows(
            "SELECT table_name, constraint_type, constraint_column_names, referenced_table, referenced_column_names "
            "FROM duckdb_constraints() WHERE schema_name = 'main'"
        ):
            if kind == "PRIMARY KEY":
                keys |= {(table, name) for name in own}
            elif kind == "FOREIGN KEY":
                targets |= {(table, a): (other, b) for a, b in zip(own, theirs, strict=True)}
        found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for table, *column in rows(
            f"SELECT table_name, column_name, data_type, comment FROM duckdb_columns() {ours} "
            "ORDER BY table_oid, column_index"
        ):
            found[table].append(tuple(column))

        def taken(table: str, column: str) -> tuple[object, ...]:
            if not samples:
                return ()
            column, table = (part.replace('"', '""') for part in (column, table))
            few = f'SELECT "{column}" AS v FROM "{table}" WHERE "{column}" IS NOT NULL LIMIT {SCANNED}'
            return tuple(_short(v) for (v,) in rows(f"SELECT DISTINCT v FROM ({few}) ORDER BY v LIMIT {samples}"))

        def read(table: str) -> Table | None:
            try:
                columns = [
                    Column(
                        name,
                        _type(kind),
                        comment or "",
                        (table, name) in keys,
                        targets.get((table, name)),
                        taken(table, name),
                    )
                    for name, kind, comment in found[table]
                ]
            except duckdb.Error as error:
                _tell_left_out(table, error)
                return None
            return Table(table, tuple(columns), comments.get(table) or "")

        tables = [read(table) for table in found if is_askable(table) and (only is None or table in only)]
    return Database(path.stem, tuple(table for table in tables if table is not None))
