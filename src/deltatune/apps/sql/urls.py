"""Where a database is: a path, or an address as SQLAlchemy writes it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy
from sqlalchemy.engine import URL

from deltatune.errors import ConfigError

__all__ = ["DIALECTS", "dialect_of", "file_of", "name_of", "parse_url"]

DIALECTS = {"sqlite": "sqlite", "duckdb": "duckdb", "postgresql": "postgres"}
"""The databases that queries run on, by SQLAlchemy's name, and sqlglot's name for their SQL."""
SUFFIXES = {".sqlite": "sqlite", ".sqlite3": "sqlite", ".db": "sqlite", ".duckdb": "duckdb"}


def parse_url(source: str | Path) -> URL:
    """Read a path to a .sqlite, .db or .duckdb file, or an address such as `postgresql://user@host/name`.

    Raises:
        ConfigError: it is neither, or a database of another kind.
    """
    if "://" not in str(source):
        suffix = Path(source).suffix.lower()
        if suffix not in SUFFIXES:
            raise ConfigError(
                f"database: expected a file ending in {', '.join(SUFFIXES)} or an address, found {str(source)!r}; "
                "write for example sqlite:///path"
            )
        return URL.create(SUFFIXES[suffix], database=str(source))
    try:
        url = sqlalchemy.make_url(str(source))
    except sqlalchemy.exc.ArgumentError:
        raise ConfigError(
            f"database: expected an address such as sqlite:///path, found {str(source)!r}; correct it"
        ) from None
    dialect_of(url)
    return url


def dialect_of(url: URL) -> str:
    """Sqlglot's name of the SQL that the database speaks.

    Raises:
        ConfigError: queries can not be run safely on a database of that kind.
    """
    kind = url.get_backend_name()
    if kind not in DIALECTS:
        raise ConfigError(
            f"database: expected one of {', '.join(DIALECTS)}, found {kind}; copy the data to one of them"
        )
    return DIALECTS[kind]


def name_of(source: str | Path) -> str:
    """What a database is called if nobody says: as its file without the ending, or as a server calls it."""
    return Path(parse_url(source).database or "").stem


def file_of(url: URL, *, exists: bool = True) -> Path:
    """The file of an embedded database.

    Raises:
        ConfigError: the address names none, or no file is there although `exists` asks for one.
    """
    if not url.database or url.database == ":memory:":
        raise ConfigError(f"database: expected a file, found {url}; a database in memory can not be opened read-only")
    if exists and not Path(url.database).is_file():
        raise ConfigError(f"database: expected a file, found nothing at {url.database}; check the path")
    return Path(url.database)
