"""Running queries: one that only reads, on a connection that can only read, within limits of time and size.

Three walls stand behind each other. The guard lets only one reading query through; the connection itself can not
write, open files or load extensions; and a query that takes too long, or returns too much, is stopped.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from sqlalchemy.engine import URL

from deltatune.apps.sql.embedded import open_duckdb, open_sqlite
from deltatune.apps.sql.guard import read_only_select, render
from deltatune.apps.sql.reflect import read_database
from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.urls import dialect_of, file_of, parse_url
from deltatune.errors import ConfigError, DeltaError, first_line

__all__ = ["Limits", "QueryError", "QueryTimeoutError", "Reader", "Result", "open_reader"]

# The second makes a backslash in a string a letter, as the guard takes it, whatever the server's default.
SETTINGS = "-c default_transaction_read_only=on -c standard_conforming_strings=on"
FIRST_PIECE, PIECE = 32, 256  # rows fetched at a time, each of which may be large
STREAMED = 4096  # the same where they are not held
LONGEST_VALUE = 4 << 20  # bytes of one value in SQLite
_Read = TypeVar("_Read")


class QueryError(DeltaError, RuntimeError):
    """The database could not answer the query."""


class QueryTimeoutError(QueryError):
    """The query took too long and was stopped."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may take.

    Args:
        seconds: until it is stopped.
        rows: that are returned; the rest is cut off.
        bytes: of all values together, roughly; the rest is cut off.
    """

    seconds: float = 10.0
    rows: int = 10_000
    bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for name in ("seconds", "rows", "bytes"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"limits: expected {name} above 0, found {getattr(self, name)}; set a larger one")


@dataclass(frozen=True, slots=True)
class Result:
    """What a query returned.

    Args:
        columns: their names.
        rows: their values.
        sql: what was run, as written from the parsed query.
        seconds: how long it took.
        cut: whether there were more rows than the limits allow.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    sql: str
    seconds: float
    cut: bool = False


class Cursor(Protocol):
    """What all drivers' cursors share."""

    @property
    def description(self) -> Any:
        """The columns."""

    def fetchmany(self, size: int) -> Sequence[tuple[Any, ...]]:
        """The next rows."""


class Connection(Protocol):
    """A read-only connection to one kind of database."""

    def answer(self, sql: str, seconds: float, read: Callable[[Cursor], _Read]) -> _Read:
        """Run a query that is known to be safe, read its rows, and stop it in time."""

    def close(self) -> None:
        """Close the connection."""


class Reader:
    """A database that can only be read, by one thread at a time. Every query passes the guard.

    Args:
        schema: its tables.
        dialect: sqlglot's name of its SQL.
        limits: of each query, unless it is given others.
    """

    def __init__(self, connection: Connection, schema: Database, dialect: str, limits: Limits) -> None:
        self.schema = schema
        self.dialect = dialect
        self.limits = limits
        self._connection = connection

    def run(self, sql: str, limits: Limits | None = None) -> Result:
        """Run one query.

        Raises:
            UnsafeSQLError: it is anything but one query that only reads the tables of this database.
            QueryError: the database could not answer it.
            QueryTimeoutError: it took too long.
        """
        limits = limits or self.limits
        safe = render(read_only_select(sql, self.dialect, self.schema), self.dialect)
        start = time.monotonic()

        def read(cursor: Cursor) -> Result:
            columns = tuple(column[0] for column in cursor.description)
            rows, cut = _fetched(cursor, limits, start + limits.seconds)
            return Result(columns, tuple(rows), safe, time.monotonic() - start, cut)

        return self._connection.answer(safe, limits.seconds, read)

    def stream(self, sql: str, take: Callable[[Sequence[tuple[Any, ...]]], object], *, seconds: float = 3600.0) -> None:
        """Run one query whose rows are too many to hold: `take` gets all of them, some thousand at a time.

        Args:
            sql: the query.
            take: what to do with some of the rows. It must not use this reader.
            seconds: until the query is stopped, what `take` needs included.

        Raises:
            UnsafeSQLError: it is anything but one query that only reads the tables of this database.
            QueryError: the database could not answer it.
            QueryTimeoutError: it took too long.
        """
        safe = render(read_only_select(sql, self.dialect, self.schema), self.dialect)
        deadline = time.monotonic() + seconds

        def read(cursor: Cursor) -> None:
            while piece := cursor.fetchmany(STREAMED):
                take(piece)
                if time.monotonic() > deadline:
                    raise TimeoutError

        self._connection.answer(safe, seconds, read)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_reader(source: str | Path, *, schema: Database | None = None, limits: Limits | None = None) -> Reader:
    """Open a database for reading only.

    Args:
        source: a path to a .sqlite, .db or .duckdb file, or an address of SQLAlchemy's.
        schema: its tables, if they are known; otherwise they are read from it. What is not among them stays hidden.
        limits: of each query.

    Raises:
        ConfigError: there is no such database, or of a kind on which queries can not be run safely.
    """
    url = parse_url(source)
    dialect = dialect_of(url)
    schema = schema or read_database(source, samples=0)
    kinds: dict[str, Callable[[URL], Connection]] = {"sqlite": _SQLite, "duckdb": _DuckDB, "postgres": _Postgres}
    return Reader(kinds[dialect](url), schema, dialect, limits or Limits())


def _fetched(cursor: Cursor, limits: Limits, deadline: float) -> tuple[list[tuple[Any, ...]], bool]:
    rows: list[tuple[Any, ...]] = []
    size, count = 0, FIRST_PIECE
    while piece := cursor.fetchmany(min(count, limits.rows + 1 - len(rows))):
        for row in piece:
            size += sum(_size(value) for value in row)
            if len(rows) == limits.rows or size > limits.bytes:
                return rows, True
            rows.append(tuple(row))
        if time.monotonic() > deadline:
            raise TimeoutError
        count = max(1, min(PIECE, (limits.bytes - size) * len(rows) // max(1, size)))
    return rows, False


def _size(value: object) -> int:
    if value is None or isinstance(value, (int, float)):
        return 8
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_size(key) + _size(each) for key, each in value.items())
    return sum(map(_size, value)) if isinstance(value, Sequence) else 8


def _give_up(error: Exception, seconds: float, *, late: bool) -> NoReturn:
    if late:
        raise QueryTimeoutError(
            f"query: expected an answer within {seconds:g} s, found none; ask for less or allow more"
        ) from None
    raise QueryError(f"query: expected an answer, found the error {first_line(error)!r}; correct the query") from None


@contextmanager
def _alarm(seconds: float, stop: Callable[[], object]) -> Iterator[threading.Event]:
    """Call `stop` from another thread when the time is over; the event tells whether it came to that."""
    rang = threading.Event()

    def ring() -> None:
        rang.set()
        stop()

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield rang
    finally:
        timer.cancel()


class _SQLite:
    def __init__(self, url: URL) -> None:
        import sqlite3

        self._errors = (sqlite3.Error, OverflowError)
        self._connection = open_sqlite(file_of(url))
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.execute("PRAGMA trusted_schema = OFF")
        if sys.version_info >= (3, 11):
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200)
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        recursive = 33  # SQLITE_RECURSIVE, which older modules do not name
        allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, recursive}
        banned = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer", "zeroblob", "randomblob"}

        def permit(action: int, first: str | None, second: str | None, *_: object) -> int:
            name = (second if action == sqlite3.SQLITE_FUNCTION else first) or ""
            if action not in allowed or name.lower() in banned or name.lower().startswith(("sqlite_", "pragma_")):
                return sqlite3.SQLITE_DENY
            return sqlite3.SQLITE_OK

        self._connection.set_authorizer(permit)

    def answer(self, sql: str, seconds: float, read: Callable[[Cursor], _Read]) -> _Read:
        deadline = time.monotonic() + seconds
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, 2_000)
        try:
            # The handler counts instructions, one of which may take a second: a long LIKE on a long text.
            with _alarm(seconds, self._connection.interrupt), closing(self._connection.execute(sql)) as cursor:
                return read(cursor)
        except (*self._errors, TimeoutError) as error:
            _give_up(error, seconds, late=time.monotonic() > deadline)
        finally:
            self._connection.set_progress_handler(None, 0)

    def close(self) -> None:
        self._connection.close()


class _DuckDB:
    def __init__(self, url: URL) -> None:
        self._connection = open_duckdb(file_of(url))
        import duckdb  # the line above tells if it is missing

        self._errors = (duckdb.Error, RuntimeError)

    def answer(self, sql: str, seconds: float, read: Callable[[Cursor], _Read]) -> _Read:
        with _alarm(seconds, self._connection.interrupt) as rang:
            try:
                return read(self._connection.execute(sql))
            except (*self._errors, TimeoutError) as error:
                _give_up(error, seconds, late=rang.is_set() or isinstance(error, TimeoutError))

    def close(self) -> None:
        self._connection.close()


class _Postgres:
    def __init__(self, url: URL) -> None:
        try:
            import psycopg
        except ImportError:
            raise ConfigError(
                'database: PostgreSQL needs the package psycopg, found none; run pip install "deltatune[sql]"'
            ) from None
        self._error = psycopg.Error
        self._canceled = psycopg.errors.QueryCanceled
        text = url.set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            self._connection = psycopg.connect(text, autocommit=True, options=SETTINGS)
        except psycopg.Error as error:
            reason = first_line(error)
            raise ConfigError(f"database: expected a connection to {url}, found {reason!r}; check it") from None

    def answer(self, sql: str, seconds: float, read: Callable[[Cursor], _Read]) -> _Read:
        connection = self._connection
        limit = f"{max(1, int(1000 * seconds))}"
        try:
            with connection.transaction(force_rollback=True), _alarm(seconds, connection.cancel):
                connection.execute("SET TRANSACTION READ ONLY")
                connection.execute(f"SET LOCAL statement_timeout = {limit}")
                connection.execute(f"SET LOCAL lock_timeout = {limit}")
                connection.execute("SET LOCAL search_path = public")
                # A cursor on the server sends rows as they are asked for, and takes nothing but one query.
                with connection.cursor(name="answer") as cursor:
                    return read(cursor.execute(sql))
        except (self._error, TimeoutError) as error:
            _give_up(error, seconds, late=isinstance(error, (self._canceled, TimeoutError)))

    def close(self) -> None:
        self._connection.close()
