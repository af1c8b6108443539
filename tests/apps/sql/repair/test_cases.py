"""Slip by slip: what comes out, what is told about it, and that it runs."""

from __future__ import annotations

import logging

import pytest

from deltatune.apps.sql.finance import database
from deltatune.apps.sql.guard import read_only_select, render
from deltatune.apps.sql.repair import Repair, repair
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.scoring.results import same_result
from deltatune.errors import ConfigError

from .cases import CASES, HOPELESS, UNCHANGED, Case

NEUTRAL = {"table", "column", "owner", "alias", "join", "grouping"}  # kinds of slips that are none of a dialect


def short(value: object) -> str:
    return ascii(value[1] if isinstance(value, Case) else value)[:50]


@pytest.mark.parametrize("case", CASES, ids=short)
def test_slips_are_mended(case: Case, sqlite_readers: dict[str, Reader]) -> None:
    found = repair(case.broken, database(case.database), case.dialect)
    assert found.sql == case.sql
    assert found.problem is None
    assert " ".join(each.kind for each in found.repairs) == case.kinds
    if case.dialect == "sqlite":
        assert sqlite_readers[case.database].run(found.sql).columns


def test_there_are_cases_of_every_kind() -> None:
    assert len(CASES) >= 80
    kinds = {kind for case in CASES for kind in case.kinds.split()}
    assert kinds >= NEUTRAL | {"text", "keyword", "clause", "dialect", "repeat", "value"}
    assert sum(len(set(case.kinds.split())) > 1 for case in CASES) > 10


@pytest.mark.parametrize(("name", "sql"), UNCHANGED, ids=short)
def test_what_is_fine_stays_as_it_is(name: str, sql: str, sqlite_readers: dict[str, Reader]) -> None:
    found = repair(sql, database(name), "sqlite")
    assert found.repairs == ()
    assert found.problem is None
    assert found.sql == render(read_only_select(sql, "sqlite"), "sqlite")
    sqlite_readers[name].run(found.sql)


@pytest.mark.parametrize("text", HOPELESS)
def test_what_is_no_query_stays_what_it_was(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        found = repair(text, database("funds"), "sqlite")
    assert found.problem is not None
    assert found.problem.startswith("SQL: expected")
    assert not caplog.records


@pytest.mark.parametrize("case", [c for c in CASES if set(c.kinds.split()) <= NEUTRAL], ids=short)
def test_names_are_mended_alike_in_every_kind_of_database(
    case: Case, readers: dict[str, Reader], sqlite_readers: dict[str, Reader]
) -> None:
    reader, reference = readers[case.database], sqlite_readers[case.database]
    found = repair(case.broken, reader.schema, reader.dialect)
    assert found.problem is None
    assert same_result(reader.run(found.sql), reference.run(case.sql), ordered=False)


class Cities:
    """A database whose texts are known."""

    def closest(self, table: str, column: str, value: str) -> str | None:
        return {("mf_info", "fnd_type", "Bonds"): "bond", ("mf_info", "stat", "ACTIVE"): "active"}.get(
            (table, column, value)
        )


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT i.fnd_code FROM mf_info AS i WHERE i.fnd_type = 'Bonds'", "'bond'"),
        ("SELECT fnd_code FROM mf_info WHERE fnd_type IN ('index', 'Bonds')", "('index', 'bond')"),
        ("SELECT fnd_code FROM mf_info WHERE 'ACTIVE' = stat", "'active' = stat"),
        ("SELECT 1 FROM mf_company WHERE EXISTS(SELECT 1 FROM mf_info WHERE stat <> 'ACTIVE')", "stat <> 'active'"),
        ('SELECT fnd_code FROM mf_info WHERE fnd_type = "Bonds"', "'bond'"),
        ("SELECT fnd_code FROM mf_info WHERE fnd_type LIKE 'Bonds'", "LIKE 'Bonds'"),
        ("SELECT fnd_code FROM mf_info WHERE curr = 'Bonds'", "curr = 'Bonds'"),
    ],
)
def test_values_are_spelt_as_the_database_has_them(sql: str, wanted: str) -> None:
    found = repair(sql, database("funds"), "sqlite", values=Cities())
    assert wanted in found.sql
    assert found.problem is None


def test_a_report_tells_before_and_after() -> None:
    found = repair("SELECT i.fnd_nme FROM mf_inf AS i WHERE i.fnd_type == 'bond'", database("funds"), "duckdb")
    assert found.repairs == (
        Repair("keyword", "==", "="),
        Repair("table", "mf_inf", "mf_info"),
        Repair("column", "i.fnd_nme", "i.fnd_name"),
    )


def test_unknown_dialects_are_named() -> None:
    with pytest.raises(ConfigError, match="dialect: expected one of sqlite, duckdb, postgres, found 'mysql'"):
        repair("SELECT 1", database("funds"), "mysql")
