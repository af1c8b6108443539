"""Questions: every template runs with the same answer everywhere, and no split knows another's templates."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.guard import read_only_select
from deltatune.apps.sql.questions import TEMPLATES, Template, questions
from deltatune.apps.sql.questions.difficulty import DIFFICULTIES, difficulty
from deltatune.apps.sql.run import Reader, Result, open_reader
from deltatune.apps.sql.split import SPLITS, split_templates
from deltatune.errors import ConfigError, DataError


def of(name: str) -> list[Template]:
    return [template for template in TEMPLATES if template.database == name]


def rows(result: Result, ordered: bool) -> list[list[object]]:
    """Rows that can be compared: types that drivers differ in are made one."""
    found = [[_plain(value) for value in row] for row in result.rows]
    return (
        found
        if ordered
        else sorted(found, key=lambda row: [f"{v:.6g}" if isinstance(v, float) else str(v) for v in row])
    )


def _plain(value: object) -> object:
    if isinstance(value, datetime.date):
        return value.isoformat()
    return float(value) if isinstance(value, (Decimal, float, int)) else value


def same(found: Result, wanted: Result, ordered: bool) -> bool:
    """Whether two results agree, sums to nine digits: databases add in their own order."""
    pairs = zip(rows(found, ordered), rows(wanted, ordered), strict=False)
    return len(found.rows) == len(wanted.rows) and all(
        a == b or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9))
        for one, other in pairs
        for a, b in zip(one, other, strict=True)
    )


def test_there_are_enough_and_each_is_its_own() -> None:
    assert len(TEMPLATES) >= 60
    assert len({template.name for template in TEMPLATES}) == len(TEMPLATES)
    asks = [ask for template in TEMPLATES for ask in template.asks]
    assert len(set(asks)) == len(asks)
    assert all(len(template.asks) >= 3 for template in TEMPLATES)
    for name in SOURCES:
        assert {template.difficulty for template in of(name)} == set(DIFFICULTIES)


def test_templates_cover_the_ways_of_asking() -> None:
    trees = [sqlglot.parse_one(t.sql.replace("{way}", "ASC").replace("{sign}", ">"), read="sqlite") for t in TEMPLATES]

    def some(kind: type[exp.Expr], least: int = 3) -> bool:
        return sum(tree.find(kind) is not None for tree in trees) >= least

    assert all(some(kind) for kind in (exp.Group, exp.Having, exp.Limit, exp.Between, exp.Window, exp.Div))
    assert all(some(kind, 2) for kind in (exp.In, exp.Exists, exp.SetOperation, exp.Subquery))
    assert max(len(list(tree.find_all(exp.Join))) for tree in trees) >= 2


@pytest.mark.parametrize("name", SOURCES)
def test_every_question_has_the_same_answer_in_every_kind_of_database(
    name: str, readers: dict[str, Reader], sqlite_readers: dict[str, Reader]
) -> None:
    reader, reference = readers[name], sqlite_readers[name]
    wanted = questions(reference, of(name), per_template=4)
    found = questions(reader, of(name), per_template=4)
    assert [example.question for example in found] == [example.question for example in wanted]
    assert {example.template for example in found} == {template.name for template in of(name)}
    filled = 0
    for example, other in zip(wanted, found, strict=True):
        result = reference.run(example.sql)
        assert same(reader.run(other.sql), result, example.ordered), example.sql
        assert other.ordered == example.ordered
        assert example.sql_for(reader.dialect) == other.sql
        filled += bool(result.rows)
    assert filled >= 0.9 * len(wanted)


def test_the_same_seed_asks_the_same(sqlite_readers: dict[str, Reader]) -> None:
    reader, templates = sqlite_readers["funds"], of("funds")
    first, again, other = (questions(reader, templates, per_template=3, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    texts = [example.question for example in first]
    assert len(set(texts)) == len(texts)
    assert not any("{" in text or ":" in example.sql for text, example in zip(texts, first, strict=True))


def test_the_difficulty_is_that_of_the_filled_query(sqlite_readers: dict[str, Reader]) -> None:
    for example in questions(sqlite_readers["macro"], of("macro"), per_template=2):
        assert example.difficulty == difficulty(sqlglot.parse_one(example.sql, read="sqlite"))


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t WHERE b = 1", "easy"),
        ("SELECT COUNT(*) FROM t", "easy"),
        ("SELECT a, COUNT(*) FROM t GROUP BY a", "medium"),
        ("SELECT t.a FROM t JOIN u ON t.b = u.b WHERE u.c = 1", "medium"),
        ("SELECT a FROM t WHERE b > (SELECT AVG(b) FROM t)", "hard"),
        ("SELECT a FROM t WHERE b = 1 UNION SELECT a FROM u", "hard"),
        ("SELECT t.a, SUM(u.c), MAX(u.d) FROM t JOIN u ON t.b = u.b WHERE u.e > 1 GROUP BY t.a ORDER BY t.a", "extra"),
        ("WITH w AS (SELECT a, ROW_NUMBER() OVER (ORDER BY b) AS n FROM t) SELECT a FROM w WHERE n < 3", "extra"),
    ],
)
def test_difficulties(sql: str, expected: str) -> None:
    assert difficulty(sqlglot.parse_one(sql)) == expected


def skeleton(template: Template) -> str:
    """The SQL without its values."""
    tree = sqlglot.parse_one(template.sql.replace("{way}", "ASC").replace("{sign}", ">"), read="sqlite")
    for node in list(tree.find_all(exp.Literal, exp.Placeholder)):
        node.replace(exp.Placeholder())
    return tree.sql()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unseen", SOURCES)
def test_splits_share_nothing_and_hold_all(unseen: str, seed: int) -> None:
    parts = {split: split_templates(split, unseen=unseen, seed=seed) for split in SPLITS}
    names = [template.name for part in parts.values() for template in part]
    assert sorted(names) == sorted(template.name for template in TEMPLATES)
    skeletons = {split: {skeleton(template) for template in part} for split, part in parts.items()}
    assert not skeletons["train"] & (skeletons["dev"] | skeletons["test"])
    assert {template.database for template in parts["train"] + parts["dev"]} == set(SOURCES) - {unseen}
    assert {template.database for template in parts["test"]} == set(SOURCES)
    assert len(parts["train"]) > len(parts["dev"]) > 5


def test_no_question_of_the_test_is_trained_on(sqlite_readers: dict[str, Reader]) -> None:
    def asked(split: str) -> set[str]:
        return {
            example.question
            for name, reader in sqlite_readers.items()
            for example in questions(reader, [t for t in split_templates(split) if t.database == name])
        }

    train, dev, test = map(asked, SPLITS)
    assert not train & test
    assert not train & dev
    assert not dev & test


def test_unknown_splits_are_named() -> None:
    with pytest.raises(ConfigError, match="split: expected one of train, dev, test, found 'valid'"):
        split_templates("valid")
    with pytest.raises(ConfigError, match="unseen: expected one of equities, funds, macro, found 'bonds'"):
        split_templates("test", unseen="bonds")


def test_a_value_can_not_change_the_query() -> None:
    template = next(t for t in TEMPLATES if t.name == "funds-code-of")
    tree = template.fill({"fnd_abbr": "x'; DROP TABLE mf_info; --"}, {})
    assert read_only_select(tree.sql("sqlite"), "sqlite", database("funds")) == tree


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_answers_agree_where_there_is_more_data(name: str, tmp_path: Path) -> None:
    """Equal values, which a small database lacks, would show where an order or a limit leaves the answer open."""
    for kind in ("sqlite", "duckdb"):
        generate(name, tmp_path / f"x.{kind}", size="small", seed=1)
    with open_reader(tmp_path / "x.sqlite") as one, open_reader(tmp_path / "x.duckdb") as other:
        pairs = [questions(reader, of(name), per_template=8) for reader in (one, other)]
        for example, twin in zip(*pairs, strict=True):
            assert same(other.run(twin.sql), one.run(example.sql), example.ordered), example.sql


def test_sql_that_does_not_parse_is_named() -> None:
    with pytest.raises(DataError, match="shop: expected SQL that parses as sqlite, found 'SELECT FROM WHERE'"):
        Example("What?", "SELECT FROM WHERE", "shop").sql_for("duckdb")
    with pytest.raises(DataError, match="shop: expected SQL that sqlite supports, found"):
        Example("What?", "SELECT a FROM t AS x(a)", "shop", dialect="postgres").sql_for("sqlite")
