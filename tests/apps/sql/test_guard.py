"""The guard: of the attacks none gets through, what is legitimate does, and what runs is what was parsed."""

from __future__ import annotations

import logging

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import exp

from deltatune.apps.sql.finance import database
from deltatune.apps.sql.guard import UnsafeSQLError, read_only_select, render
from deltatune.apps.sql.safe import FUNCTIONS, NODES, TYPES
from deltatune.apps.sql.schema import Database
from deltatune.errors import ConfigError

from .attacks import BY_DIALECT, EVERYWHERE, LEGITIMATE, LEGITIMATE_BY_DIALECT

FUNDS = database("funds")
ATTACKS = [(dialect, sql) for dialect, own in BY_DIALECT.items() for sql in (*EVERYWHERE, *own)]
FINE = [(dialect, sql) for dialect, own in LEGITIMATE_BY_DIALECT.items() for sql in (*LEGITIMATE, *own)]


def short(value: object) -> str:
    return ascii(value)[:60]


@pytest.mark.parametrize(("dialect", "sql"), ATTACKS, ids=short)
def test_no_attack_gets_through(dialect: str, sql: str) -> None:
    with pytest.raises(UnsafeSQLError) as caught:
        read_only_select(sql, dialect, FUNDS)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("dialect", "sql"), ATTACKS, ids=short)
def test_without_a_schema_only_names_of_tables_and_columns_are_free(dialect: str, sql: str) -> None:
    try:
        tree = read_only_select(sql, dialect)
    except UnsafeSQLError:
        return
    assert (
        "secrets" in sql.lower() or "password" in sql or sql.startswith(("WITH a", "WITH RECURSIVE a", "SELECT xmin"))
    ), sql
    assert reads_only(tree)


@pytest.mark.parametrize(("dialect", "sql"), FINE, ids=short)
def test_what_is_legitimate_passes(dialect: str, sql: str) -> None:
    tree = read_only_select(sql, dialect, FUNDS)
    assert sqlglot.parse(render(tree, dialect), read=dialect) == [sqlglot.parse_one(sql, read=dialect).unnest()]
    assert "--" not in render(tree, dialect).replace("TABLE mf_info; --", "")
    assert "/*" not in render(tree, dialect)


def reads_only(tree: exp.Expr) -> bool:
    banned = (exp.DDL, exp.DML, exp.Command, exp.Into, exp.Lock, exp.Anonymous, exp.Placeholder, exp.Parameter)
    return not any(isinstance(node, banned) and not isinstance(node, exp.Query) for node in tree.walk())


WORDS = [
    "SELECT", "FROM", "WHERE", "WITH", "AS", "(", ")", ",", ";", "*", "'", '"', "--", "/*", "*/", "$$", "E'", "=", "::",
    "mf_info", "fnd_code", "secrets", "DROP TABLE", "DELETE", "INSERT INTO", "UPDATE", "SET", "RETURNING", "INTO",
    "UNION", "FOR UPDATE", "pg_sleep", "load_extension", "read_csv", "COUNT", "PRAGMA", "ATTACH", "COPY", "1", "x",
    "\n", "[", "]", "{", "}", "VALUES", "LATERAL", "COLUMNS", "EXISTS", "JOIN", "ON", "LIMIT", "`", "\\", "@", ":",
    "?", "||", "TABLE",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["sqlite", "duckdb", "postgres"]), st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))
def test_whatever_gets_through_is_one_query_that_reads_known_tables(dialect: str, tail: str) -> None:
    for sql in (tail, f"SELECT fnd_code FROM mf_info {tail}", f"SELECT {tail} FROM mf_info"):
        check(sql, dialect)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["sqlite", "duckdb", "postgres"]), st.text(max_size=40))
def test_any_text_in_any_place_stays_harmless(dialect: str, text: str) -> None:
    check(text, dialect)
    check(f"SELECT fnd_code FROM mf_info WHERE fnd_abbr = '{text}'", dialect)
    check(f'SELECT "{text}" FROM mf_info', dialect)


def check(sql: str, dialect: str) -> None:
    try:
        tree = read_only_select(sql, dialect, FUNDS)
    except UnsafeSQLError:
        return
    (again,) = sqlglot.parse(render(tree, dialect), read=dialect)
    assert isinstance(again, exp.Query)
    assert reads_only(again)
    own = {cte.alias.lower() for cte in again.find_all(exp.CTE)}
    assert {table.name.lower() for table in again.find_all(exp.Table)} <= {t.name for t in FUNDS.tables} | own


def test_what_is_allowed_exists_and_only_functions_are_among_the_functions() -> None:
    assert not [name for name in NODES | FUNCTIONS if not hasattr(exp, name)]
    assert not [name for name in FUNCTIONS if not issubclass(getattr(exp, name), exp.Func)]
    assert not [name for name in TYPES if name not in exp.DataType.Type.__members__]
    changing = (exp.DDL, exp.DML, exp.Command, exp.Into, exp.Lock, exp.Returning)
    assert not [
        n
        for n in NODES | FUNCTIONS
        if issubclass(getattr(exp, n), changing) and not issubclass(getattr(exp, n), exp.Query)
    ]


def test_names_fold_as_in_the_database() -> None:
    read_only_select('SELECT "FND_CODE" FROM "MF_INFO"', "sqlite", FUNDS)
    with pytest.raises(UnsafeSQLError, match="expected one of the tables"):
        read_only_select('SELECT 1 FROM "MF_INFO"', "postgres", FUNDS)
    with pytest.raises(UnsafeSQLError, match="expected one of the tables"):  # the Kelvin sign is no k
        read_only_select('WITH "\u212a" AS (SELECT 1 AS a) SELECT a FROM k', "postgres", FUNDS)


def test_a_schema_without_tables_allows_none() -> None:
    read_only_select("SELECT 1", "sqlite", Database("empty", ()))
    with pytest.raises(UnsafeSQLError):
        read_only_select("SELECT * FROM mf_info", "sqlite", Database("empty", ()))


def test_refusals_are_quiet_and_dialects_known(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(UnsafeSQLError):
        read_only_select("VACUUM", "sqlite")
    assert not caplog.records
    with pytest.raises(ConfigError, match="dialect: expected one of sqlite, duckdb, postgres, found 'mysql'"):
        read_only_select("SELECT 1", "mysql")


@pytest.mark.parametrize("joins", [9, 18, 400])
def test_joins_that_take_the_parser_for_ever_are_refused_before_it(joins: int) -> None:
    sql = "SELECT i.fnd_code FROM mf_info AS i" + " JOIN mf_company" * joins
    with pytest.raises(UnsafeSQLError, match="at most 8 joins without a condition in a row, found more"):
        read_only_select(sql, "sqlite", FUNDS)


def test_joins_with_conditions_are_as_many_as_one_likes() -> None:
    joins = "".join(f" JOIN mf_nav AS n{i} ON i.fnd_code = n{i}.fnd_code" for i in range(12))
    read_only_select(f"SELECT i.fnd_code FROM mf_info AS i{joins}", "sqlite", FUNDS)


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [("postgres", "MAX(mgt_fee) { : } load_extension ORDER BY DELETE --"), ("duckdb", "SHOW ALL")],
)
def test_what_breaks_the_parser_is_refused(dialect: str, sql: str) -> None:
    with pytest.raises(UnsafeSQLError):
        read_only_select(sql, dialect, FUNDS)
