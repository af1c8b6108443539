"""Opening the files of embedded databases so that they can only be read."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deltatune.errors import ConfigError, first_line

if TYPE_CHECKING:
    import duckdb

__all__ = ["open_duckdb", "open_sqlite"]


def open_sqlite(path: Path, *, any_text: bool = True) -> sqlite3.Connection:
    """Open a SQLite file for reading; the file itself is opened read-only.

    Args:
        path: of the file.
        any_text: read text that is no UTF-8 as far as it is; SQLite does not look at what is stored. Default: true.

    Raises:
        ConfigError: the file is no such database.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    if any_text:
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ConfigError(f"database: expected a SQLite file at {path}, found {str(error)!r}; check it") from None
    return connection


def open_duckdb(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB file for reading, without access to other files, the network, extensions or Python's variables.

    Raises:
        ConfigError: the package is missing, or the file is no such database or is open for writing.
    """
    try:
        import duckdb
    except ImportError:
        raise ConfigError(
            'database: DuckDB needs the package duckdb, found none; run pip install "deltatune[sql]"'
        ) from None
    settings: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": "false",
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "allow_community_extensions": "false",
        "python_enable_replacements": "false",
        "memory_limit": "1GB",
        "max_temp_directory_size": "0KB",
        "lock_configuration": "true",
    }
    try:
        return duckdb.connect(str(path), read_only=True, config=settings)
    except duckdb.Error as error:
        reason = first_line(error)
        raise ConfigError(f"database: expected a DuckDB file at {path}, found {reason!r}; check it") from None
