"""Synthesised questions: every construct, every database, right answers, the same from run to run."""

from __future__ import annotations

import math
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.finance import SOURCES
from deltatune.apps.sql.questions.difficulty import DIFFICULTIES, difficulty
from deltatune.apps.sql.run import Limits, QueryTimeoutError, Reader, Result, open_reader
from deltatune.apps.sql.split import split_templates
from deltatune.apps.sql.synthesis import CONSTRUCTS, held_out, masked, synthesize
from deltatune.apps.sql.synthesis.lexicon import Lexicon
from deltatune.errors import ConfigError, DataError

COUNT = 250


@pytest.fixture(scope="module")
def made(sqlite_readers: dict[str, Reader]) -> dict[str, list[Example]]:
    """Many examples of each of our databases."""
    return {name: synthesize(reader, count=COUNT) for name, reader in sqlite_readers.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_examples_are_whole(name: str, made: dict[str, list[Example]], sqlite_readers: dict[str, Reader]) -> None:
    examples = made[name]
    assert len(examples) == COUNT
    assert len({e.question for e in examples}) == len({e.sql for e in examples}) == COUNT
    for example in examples:
        tree = sqlglot.parse_one(example.sql, read="sqlite")
        assert example.database == name
        assert example.difficulty == difficulty(tree)
        assert example.sql == tree.sql(dialect="sqlite")
        assert re.fullmatch(r"[A-Z].*[.?]", example.question), example.question
        assert not re.search(r"  | [,.?]|\bthe the\b|[{}]|None|\(\)", example.question), example.question
    assert {e.difficulty for e in examples} == set(DIFFICULTIES)
    answered = [sqlite_readers[name].run(e.sql) for e in examples]
    assert sum(any(v is not None for row in r.rows for v in row) for r in answered) >= 0.95 * COUNT


def test_all_constructs_occur(made: dict[str, list[Example]]) -> None:
    names = {example.template for examples in made.values() for example in examples}
    assert names == set(CONSTRUCTS)


def test_queries_have_all_shapes(made: dict[str, list[Example]]) -> None:
    trees = [sqlglot.parse_one(e.sql, read="sqlite") for examples in made.values() for e in examples]

    def share(*kinds: type[exp.Expr]) -> float:
        return sum(tree.find(*kinds) is not None for tree in trees) / len(trees)

    assert all(share(kind) > 0.05 for kind in (exp.Group, exp.Order, exp.Limit, exp.Join, exp.AggFunc, exp.Subquery))
    assert all(share(kind) > 0.01 for kind in (exp.Having, exp.Between, exp.Div, exp.Window, exp.SetOperation, exp.In))
    assert all(
        share(kind) > 0 for kind in (exp.Exists, exp.Like, exp.Is, exp.Case, exp.Or, exp.Distinct, exp.TimeToStr)
    )
    joins = Counter(len(list(tree.find_all(exp.Join))) for tree in trees)
    assert joins[0] > joins[2] > 0.05 * len(trees)
    assert share(exp.Join) < 0.8


@pytest.mark.parametrize("name", SOURCES)
def test_values_of_the_query_are_in_the_question(name: str, made: dict[str, list[Example]]) -> None:
    """Whoever reads the question can write the query: no value comes from nowhere."""
    for example in made[name]:
        for value in sqlglot.parse_one(example.sql, read="sqlite").find_all(exp.Literal):
            known = isinstance(value.parent, (exp.TimeToStr, exp.Mul)) or value.this in ("0", "1", "100.0")
            month = re.fullmatch(r"\d{4}-\d{2}", value.this)
            said = value.this.strip("%")[:4] if month else value.this.strip("%")
            assert known or said in example.question, (said, example)


@pytest.mark.parametrize("name", SOURCES)
def test_the_answer_is_the_same_in_every_kind_of_database(
    name: str, readers: dict[str, Reader], sqlite_readers: dict[str, Reader]
) -> None:
    found, wanted = (synthesize(r[name], count=80, seed=1) for r in (readers, sqlite_readers))
    assert [e.question for e in found] == [e.question for e in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert other.sql_for(readers[name].dialect) == one.sql
        rows, expected = readers[name].run(one.sql).rows, sqlite_readers[name].run(other.sql).rows
        assert len(rows) == len(expected)
        if one.ordered:
            for row, twin in zip(rows, expected, strict=True):
                assert all(_same(a, b) for a, b in zip(row, twin, strict=True)), one.sql


def _same(a: object, b: object) -> bool:
    try:
        return math.isclose(float(str(a)), float(str(b)), rel_tol=1e-9, abs_tol=1e-9)
    except ValueError:
        return str(a)[:10] == str(b)[:10]


def test_the_same_seed_gives_the_same(sqlite_readers: dict[str, Reader]) -> None:
    first, again, other = (synthesize(sqlite_readers["macro"], count=40, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", SOURCES)
def test_held_out_templates_are_not_made(name: str, sqlite_readers: dict[str, Reader]) -> None:
    hidden = held_out(split_templates("dev") + split_templates("test"))
    examples = synthesize(sqlite_readers[name], count=COUNT, seed=5, exclude=hidden)
    assert not {masked(example.sql) for example in examples} & hidden


def test_what_is_excluded_would_have_been_made(
    made: dict[str, list[Example]], sqlite_readers: dict[str, Reader]
) -> None:
    hidden = {masked(example.sql) for example in made["funds"][:30]}
    examples = synthesize(sqlite_readers["funds"], count=60, exclude=hidden)
    assert not {masked(example.sql) for example in examples} & hidden
    assert made["funds"][30] in examples


def test_a_foreign_database(shop: Reader) -> None:
    examples = synthesize(shop, count=150)
    assert len(examples) == 150
    tables = {t.name for e in examples for t in sqlglot.parse_one(e.sql, read="sqlite").find_all(exp.Table)}
    assert tables == {"Employee", "Order", "Order Line"}
    sql = " ".join(e.sql for e in examples)
    assert '"Order Line"' in sql
    assert 'o."Region" = r."Region" AND o."Number" = r."Number"' in sql
    assert re.search(r'FROM "Employee" AS (\w) JOIN "Employee" AS (\w) ON \1."ManagerId" = \2."EmployeeId"', sql)
    assert any("manager" in e.question for e in examples)


def test_what_can_not_be_asked_is_said(shop: Reader) -> None:
    with pytest.raises(ConfigError, match="count: expected 1 or more, found 0"):
        synthesize(shop, count=0)
    with pytest.raises(DataError, match="shop: expected enough for 30 questions, found 0; ask for fewer"):
        synthesize(shop, count=30, exclude=_Everything())


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


def test_any_values_under_a_type_and_any_names_do(tmp_path: Path) -> None:
    """SQLite holds what it is given, and a query that a database refuses is not the end of the others."""
    file = tmp_path / "log.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE login (id INTEGER PRIMARY KEY, user TEXT, day DATE, odd DATE, hits INTEGER)")
        days = [f"2024-{1 + n % 12:02d}-{1 + n % 28:02d}" for n in range(80)]
        odd = ["19970629", "2/14/2016", "", "0000-00-00", 19970630]
        rows = [(n, f"user {n % 9}", day, f"{odd[n % 5]}", n % 37) for n, day in enumerate(days)]
        connection.executemany("INSERT INTO login VALUES (?, ?, ?, ?, ?)", rows)
        connection.commit()
    with open_reader(file) as reader:
        made = synthesize(reader, count=40)
        lexicon = Lexicon(reader)
        (table,) = reader.schema.tables
        assert lexicon.role(table, table.column("day")) == "date"
        assert lexicon.role(table, table.column("odd")) == "other"
    assert len(made) == 40
    assert not any("odd" in example.sql for example in made)


def test_a_table_that_takes_too_long_to_count_is_left_out(
    sqlite_readers: dict[str, Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = sqlite_readers["funds"]
    run = reader.run

    def slow(sql: str, limits: Limits | None = None) -> Result:
        if "mf_nav" in sql:
            raise QueryTimeoutError("query: expected an answer within 120 s, found none")
        return run(sql, limits)

    monkeypatch.setattr(reader, "run", slow)
    with pytest.warns(UserWarning, match="mf_nav: no questions are made about it"):
        made = synthesize(reader, count=30)
    assert not any("mf_nav" in example.sql for example in made)
