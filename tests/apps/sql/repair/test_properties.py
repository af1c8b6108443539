"""What holds for all queries, and for all texts: the right ones stay, most spoilt ones come back, none does harm."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.finance import database
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.guard import UnsafeSQLError, read_only_select, render
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.repair import repair
from deltatune.apps.sql.run import QueryError, Reader, open_reader
from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.scoring.results import same_result

from ..attacks import BY_DIALECT, EVERYWHERE, LEGITIMATE, LEGITIMATE_BY_DIALECT
from ..test_guard import WORDS
from .corruptions import CORRUPTIONS

DIALECTS = ("sqlite", "duckdb", "postgres")
FUNDS = database("funds")


@pytest.fixture(scope="module")
def gold(sqlite_readers: dict[str, Reader]) -> list[Example]:
    """Every template, filled."""
    return [
        example
        for name, reader in sqlite_readers.items()
        for example in questions(reader, [t for t in TEMPLATES if t.database == name], per_template=2)
    ]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_right_query_is_a_fixed_point(dialect: str, gold: list[Example]) -> None:
    assert {example.template for example in gold} == {template.name for template in TEMPLATES}
    for example in gold:
        sql = example.sql_for(dialect)
        found = repair(sql, database(example.database), dialect)
        assert found.repairs == (), sql
        assert found.problem is None
        assert found.sql == sql


@pytest.mark.parametrize(
    ("dialect", "sql"), [(d, sql) for d, own in LEGITIMATE_BY_DIALECT.items() for sql in (*LEGITIMATE, *own)]
)
def test_what_is_legitimate_stays(dialect: str, sql: str) -> None:
    found = repair(sql, FUNDS, dialect)
    assert found.repairs == ()
    assert found.sql == render(read_only_select(sql, dialect), dialect)


@pytest.mark.parametrize("spoil", CORRUPTIONS, ids=lambda spoil: spoil.__name__)
def test_most_of_what_is_spoilt_comes_back(
    spoil: Callable[[str, random.Random, Database], str | None],
    gold: list[Example],
    sqlite_readers: dict[str, Reader],
) -> None:
    """At least nine in ten give the rows of the query that they were; without repair, none of these does."""
    rng = random.Random(7)
    back, lost = 0, []
    for example in gold:
        reader = sqlite_readers[example.database]
        broken = spoil(example.sql, rng, reader.schema)
        if broken is None or answers(reader, broken, example):
            continue
        found = repair(broken, reader.schema, "sqlite")
        if answers(reader, found.sql, example):
            back += 1
        else:
            lost.append((broken, found.sql))
    assert back + len(lost) >= 30
    assert back >= 0.9 * (back + len(lost)), lost


def answers(reader: Reader, sql: str, example: Example) -> bool:
    """Whether a query gives the rows of the right one."""
    try:
        return same_result(reader.run(sql), reader.run(example.sql), ordered=example.ordered)
    except (UnsafeSQLError, QueryError, ValueError):
        return False


MORE = [
    *WORDS, "WHERE", "GROUP BY", "ORDER BY", "HAVING", "ON", "AND", "mf_nav AS n", "n.unit_nav", "'bond'", "SELECT a",
    "FROM mf_info", "JOIN mf_company", "CASE", "WHEN", "END", "IN (", "==", "UNION SELECT", "WITH x AS (", "OVER (",
    "SUM(", "MAX(mgt_fee)", "GRUOP BY", "LIMIT 3", "TOP 5", "YEAR(est_dt)", "NATURAL JOIN", "USING (fnd_code)", "x.*",
    "BETWEEN", "INTERVAL '1 year'", "RECURSIVE", "```sql", "SQL:", "i.fnd_code",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(DIALECTS), st.lists(st.sampled_from(MORE), max_size=18).map(" ".join))
def test_whatever_comes_out_without_a_problem_passes_the_guard(dialect: str, soup: str) -> None:
    for text in (soup, f"SELECT {soup}", f"SELECT fnd_code FROM mf_info {soup}"):
        harmless(text, dialect)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DIALECTS), st.text(max_size=60))
def test_any_text_can_be_tried(dialect: str, text: str) -> None:
    harmless(text, dialect)
    harmless(f"SELECT fnd_code FROM mf_info WHERE fnd_abbr = '{text}'", dialect)
    harmless(f'SELECT "{text}" FROM mf_inf', dialect)


@pytest.mark.parametrize(
    "piece",
    ["(", ")", "'", '"', "/*", "SELECT ", "a AND ", "x, ", "SELECT (", "AND x = 1 ", "(SELECT ", "```", "-",
     "WITH a AS (", "SELECT a FROM b UNION ", "\n\n", "=", "JOIN mf_nav ", "CASE WHEN ", "NOT ", "SQL: select "],
)  # fmt: skip
def test_long_texts_come_to_an_end(piece: str) -> None:
    harmless(piece * (20_000 // len(piece)), "sqlite")
    harmless("SELECT fnd_code FROM mf_info WHERE " + piece * (4_000 // len(piece)), "sqlite")


def harmless(text: str, dialect: str) -> None:
    found = repair(text, FUNDS, dialect)
    if found.problem is None:
        assert render(read_only_select(found.sql, dialect, FUNDS), dialect) == found.sql


def test_no_attack_becomes_one_that_changes_anything(tmp_path: Path) -> None:
    """All that attacks are mended to is run, and the file stays the same to the byte."""
    path = tmp_path / "funds.sqlite"
    generate("funds", path, size="tiny")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    ran = 0
    with open_reader(path) as reader:
        for attack in (*EVERYWHERE, *(sql for own in BY_DIALECT.values() for sql in own)):
            harmless(attack, "sqlite")
            try:
                reader.run(repair(attack, FUNDS, "sqlite").sql)
                ran += 1
            except (UnsafeSQLError, QueryError):
                continue
    assert 0 < ran < 30
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_attacks_ask_for_is_not_asked(dialect: str) -> None:
    for attack in (*EVERYWHERE, *BY_DIALECT[dialect]):
        found = repair(attack, FUNDS, dialect)
        if found.problem is None:
            tree = read_only_select(found.sql, dialect, FUNDS)
            assert not {"secrets", "password", "load_extension", "pg_shadow"} & {
                node.name.lower() for node in tree.walk() if not node.is_string
            }
