"""What stands in double quotes, told as SQLite tells it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.quotes import with_texts
from deltatune.apps.sql.run import open_reader


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT country FROM airlines WHERE airline = "JetBlue Airways"',
        'SELECT "airline" FROM airlines WHERE "country" = "USA"',
        'SELECT country AS "where" FROM airlines ORDER BY "where"',
        'SELECT COUNT(*) FROM airlines WHERE airline IN ("JetBlue Airways", "BA") OR country LIKE "%S%"',
        "SELECT country FROM airlines WHERE airline = 'a \"b\"'",
        'SELECT a.country FROM airlines AS a WHERE a."airline" = "BA"',
        'SELECT (SELECT "city" FROM airports) FROM airlines',
        'SELECT "city" FROM airlines',
    ],
)
def test_the_same_comes_out_as_sqlite_says(tmp_path: Path, sql: str) -> None:
    """The guard refuses what it takes for unknown columns; what is told from texts passes, with SQLite's own answer."""
    file = tmp_path / "fly.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE airlines (airline TEXT, country TEXT)")
        connection.execute("CREATE TABLE airports (city TEXT)")
        rows = [("JetBlue Airways", "USA"), ("BA", "UK"), ('a "b"', "?")]
        connection.executemany("INSERT INTO airlines VALUES (?, ?)", rows)
        connection.execute("INSERT INTO airports VALUES ('Rome')")
        wanted = connection.execute(sql).fetchall()
    connection.close()
    with open_reader(file) as reader:
        told = with_texts(Example("?", sql, "fly"), reader.schema)
        assert list(reader.run(told.sql).rows) == wanted


def test_other_dialects_and_what_is_no_sql_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "fly.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE airlines (airline TEXT)")
    connection.close()
    with open_reader(file) as reader:
        for example in (
            Example("?", 'SELECT airline FROM airlines WHERE airline = "BA"', "fly", dialect="duckdb"),
            Example("?", 'SELECT "', "fly"),
            Example("?", 'SELECT  "airline"  FROM airlines', "fly"),
        ):
            assert with_texts(example, reader.schema) is example
