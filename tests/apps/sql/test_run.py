"""Running: the database is never changed, slow queries end in time, and results are cut to size."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.guard import UnsafeSQLError
from deltatune.apps.sql.run import Limits, QueryError, QueryTimeoutError, Reader, Result, open_reader
from deltatune.apps.sql.source import open_source
from deltatune.errors import ConfigError

from .attacks import BY_DIALECT, EVERYWHERE, LEGITIMATE, LEGITIMATE_BY_DIALECT

ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT(*) FROM c"
CROSS = (
    "SELECT COUNT(*) FROM mf_nav AS a, mf_nav AS b, mf_nav AS c, mf_nav AS d WHERE a.unit_nav < b.unit_nav * c.unit_nav"
)
GROWING = "WITH RECURSIVE c(s) AS (SELECT 'xxxxxxxx' UNION ALL SELECT s || s FROM c) SELECT MAX(LENGTH(s)) FROM c"


def counted(readers: dict[str, Reader]) -> dict[str, tuple[tuple[object, ...], ...]]:
    return {
        f"{name}.{table.name}": readers[name].run(f"SELECT COUNT(*) FROM {table.name}").rows
        for name in SOURCES
        for table in database(name).tables
    }


def test_no_attack_reaches_or_changes_the_database(readers: dict[str, Reader]) -> None:
    reader, before = readers["funds"], counted(readers)
    for sql in (*EVERYWHERE, *BY_DIALECT[reader.dialect]):
        with pytest.raises(UnsafeSQLError):
            reader.run(sql)
    assert counted(readers) == before


def test_past_the_guard_the_connection_still_only_reads(readers: dict[str, Reader]) -> None:
    """The second wall: were the guard wrong, what writes, or reads files, would fail at the connection."""
    reader, before = readers["funds"], counted(readers)
    writing = [
        "DELETE FROM mf_nav",
        "UPDATE mf_info SET mgt_fee = 0",
        "INSERT INTO mf_company (co_code) VALUES ('X')",
        "DROP TABLE mf_nav",
        "CREATE TABLE x (a INT)",
    ]
    own = {
        "sqlite": ["ATTACH '/tmp/x.db' AS x", "PRAGMA query_only = OFF", "SELECT load_extension('x')",
                   "SELECT * FROM sqlite_master", "SELECT * FROM pragma_database_list", "CREATE TEMP TABLE x (a INT)",
                   "SELECT zeroblob(1000000000)"],
        "duckdb": ["SELECT * FROM '/etc/passwd'", "SELECT * FROM read_text('/etc/passwd')", "COPY mf_nav TO 'x.csv'",
                   "SET enable_external_access = true", "ATTACH '/tmp/x.duckdb'", "INSTALL httpfs"],
        "postgres": ["SELECT setval('x', 1)", "SELECT 1; COMMIT; DROP TABLE mf_nav", "COMMIT", "COPY mf_nav TO 'x'"],
    }  # fmt: skip
    for sql in (*writing, *own[reader.dialect]):
        with pytest.raises(QueryError):
            reader._connection.answer(sql, 5, lambda cursor: Result((), tuple(cursor.fetchmany(9)), "", 0))
    assert counted(readers) == before


def test_what_is_legitimate_runs(readers: dict[str, Reader]) -> None:
    reader = readers["funds"]
    for sql in (*LEGITIMATE, *LEGITIMATE_BY_DIALECT[reader.dialect]):
        result = reader.run(sql)
        assert result.columns
        assert all(len(row) == len(result.columns) for row in result.rows)


@pytest.mark.parametrize("sql", [ENDLESS, CROSS, GROWING], ids=["endless", "cross", "growing"])
def test_a_long_query_is_stopped_in_time_and_the_next_one_runs(readers: dict[str, Reader], sql: str) -> None:
    reader, start = readers["funds"], time.monotonic()
    with pytest.raises(QueryError) as caught:  # the growing one may end earlier, on a limit of size
        reader.run(sql, Limits(seconds=0.5))
    assert time.monotonic() - start < 5
    assert sql == GROWING or isinstance(caught.value, QueryTimeoutError)
    assert reader.run("SELECT COUNT(*) FROM mf_company").rows == ((4,),)


def test_results_are_cut_to_size(readers: dict[str, Reader]) -> None:
    reader = readers["funds"]
    few = reader.run("SELECT fnd_code FROM mf_nav ORDER BY fnd_code", Limits(rows=7))
    assert len(few.rows) == 7
    assert few.cut
    small = reader.run("SELECT fnd_name FROM mf_info", Limits(bytes=200))
    assert small.cut
    assert sum(len(row[0]) for row in small.rows) <= 200
    all_of_them = reader.run("SELECT fnd_code FROM mf_info", Limits(rows=40))
    assert len(all_of_them.rows) == 40
    assert not all_of_them.cut


def test_a_stream_brings_all_rows_in_pieces(readers: dict[str, Reader]) -> None:
    reader, sql = readers["equities"], "SELECT a.stk_code, b.stk_code FROM eq_info AS a, eq_info AS b, eq_ind AS c"
    pieces: list[int] = []
    seen: set[tuple[object, ...]] = set()

    def take(rows: Sequence[tuple[object, ...]]) -> None:
        pieces.append(len(rows))
        seen.update(rows)

    reader.stream(sql, take)
    assert sum(pieces) == reader.run(f"SELECT COUNT(*) FROM ({sql}) AS t").rows[0][0] > 10_000
    assert max(pieces) < 5_000
    assert len(seen) == 36 * 36
    assert reader.run("SELECT COUNT(*) FROM eq_info").rows == ((36,),)


def test_a_stream_passes_the_same_walls(readers: dict[str, Reader]) -> None:
    reader, taken = readers["funds"], []
    for sql in (*EVERYWHERE, *BY_DIALECT[reader.dialect]):
        with pytest.raises(UnsafeSQLError):
            reader.stream(sql, taken.append)
    with pytest.raises(QueryError):
        reader.stream("SELECT fnd_code, fnd_code FROM mf_info GROUP BY COUNT(*)", taken.append)
    with pytest.raises(QueryTimeoutError):
        reader.stream(ENDLESS, taken.append, seconds=0.3)
    with pytest.raises(QueryTimeoutError):
        reader.stream("SELECT a.fnd_code FROM mf_nav AS a, mf_nav AS b", lambda _: time.sleep(0.2), seconds=0.3)
    assert not taken


def test_what_a_stream_is_given_to_raises_as_it_is(readers: dict[str, Reader]) -> None:
    def take(rows: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        readers["funds"].stream("SELECT fnd_code FROM mf_info", take)
    assert readers["funds"].run("SELECT COUNT(*) FROM mf_company").rows == ((4,),)


def test_a_percent_sign_is_only_a_letter(readers: dict[str, Reader]) -> None:
    assert readers["funds"].run("SELECT '100%s %', 7 % 4").rows == (("100%s %", 3),)


def test_what_is_no_part_of_the_schema_stays_hidden(addresses: dict[str, str]) -> None:
    whole = database("funds")
    part = type(whole)("part", tuple(t for t in whole.tables if t.name != "mf_manager"))
    with open_reader(addresses["funds"], schema=part) as reader:
        reader.run("SELECT COUNT(*) FROM mf_info")
        with pytest.raises(UnsafeSQLError, match="expected one of the tables"):
            reader.run("SELECT * FROM mf_manager")


def test_a_database_error_is_one_line(readers: dict[str, Reader]) -> None:
    with pytest.raises(QueryError, match=r"^query: expected an answer, found the error") as caught:
        readers["funds"].run("SELECT fnd_code, fnd_code FROM mf_info GROUP BY COUNT(*)")
    assert len(str(caught.value).splitlines()) == 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a ?#%.sqlite"  # letters that mean something in a file's address
    generate("macro", path, size="tiny")
    return path


def test_a_file_is_not_touched(file: Path) -> None:
    before, written = file.read_bytes(), file.stat().st_mtime_ns
    with open_reader(file) as reader:
        assert reader.run("SELECT COUNT(*) FROM mc_region").rows == ((12,),)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == (before, written)
    assert list(file.parent.iterdir()) == [file]


def test_text_that_is_no_utf_8_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "players.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("CREATE TABLE player (name TEXT, user TEXT);")
        connection.execute("INSERT INTO player VALUES (CAST(? AS TEXT), 'ann')", (b"Treyes Albarrac\xeeN",))
        connection.commit()
    with open_source(file) as source:
        assert source.reader.run("SELECT name FROM player").rows == (("Treyes Albarrac\ufffdN",),)
        assert source.reader.run("SELECT user FROM player").rows == (("ann",),)  # a column in SQLite, as any other


def test_a_single_step_that_takes_long_ends_in_time(tmp_path: Path) -> None:
    """SQLite counts steps, and a LIKE on a long text is one."""
    file = tmp_path / "long.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE page (body TEXT)")
        connection.executemany("INSERT INTO page VALUES (?)", [("a" * 1_000_000,)] * 40)
        connection.commit()
    with open_reader(file, limits=Limits(seconds=0.3)) as reader:
        start = time.monotonic()
        with pytest.raises(QueryTimeoutError):
            reader.run(f"SELECT COUNT(*) FROM page WHERE body LIKE '%{'a' * 150}b'")
        assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.sqlite", "expected a file, found nothing at nowhere.sqlite"),
        ("nowhere.duckdb", "expected a file, found nothing at nowhere.duckdb"),
        ("sqlite://", "a database in memory can not be opened read-only"),
        ("oracle://host/x", "expected one of sqlite, duckdb, postgresql, found oracle"),
        ("not an address://", "expected an address such as sqlite:///path"),
    ],
)
def test_what_can_not_be_opened_is_named(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_reader(source)


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="limits: expected seconds above 0, found 0"):
        Limits(seconds=0)


def test_a_backslash_is_only_a_letter(addresses: dict[str, str]) -> None:
    """Where a server takes it for more by default, a string would end elsewhere than the guard believes."""
    if addresses["funds"].startswith("postgresql"):
        import psycopg

        with psycopg.connect(addresses["funds"], autocommit=True) as connection:
            connection.execute("ALTER DATABASE funds SET standard_conforming_strings = off")
    with open_reader(addresses["funds"]) as reader:
        assert reader.run(r"SELECT '\' AS a, ' UNION SELECT 1 --' AS b").rows == (("\\", " UNION SELECT 1 --"),)


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['sqlglot'] = None; import deltatune.apps.sql"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    wanted = 'deltatune.apps.sql: needs the package sqlglot, found none; run pip install "deltatune[sql]"'
    assert found.stderr.strip().endswith(wanted)
