"""Styles of completions: the SQL comes back letter by letter, whatever stands before it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp

from deltatune.apps.sql.augment import STYLES, Style, agrees, completion, skeleton, sql_of
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.run import QueryError, Reader
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.errors import ConfigError, DataError

SHOP = Database(
    "shop", (Table("t", (Column("a", "text"), Column("b", "int")), "things"), Table("u", (Column("a", "text"),)))
)


def say(sql: str, style: Style) -> str:
    return completion(Example("What?", sql, "shop"), style, SHOP)


@pytest.mark.parametrize("style", STYLES)
def test_the_sql_comes_back(style: Style, examples: list[Example], sqlite_readers: dict[str, Reader]) -> None:
    for example in examples:
        text = completion(example, style, sqlite_readers[example.database].schema)
        assert sql_of(text, style) == example.sql
        assert text.endswith(example.sql)


@pytest.mark.parametrize("style", STYLES)
@given(value=st.text(), other=st.text(alphabet="\n SQL:'_\"?", min_size=4), number=st.integers())
def test_the_sql_comes_back_whatever_its_values(style: Style, value: str, other: str, number: int) -> None:
    tree = (
        exp.select("a")
        .from_("t")
        .where(exp.column("a").eq(value), exp.column("b").eq(number), exp.column("a").neq(other))
    )
    sql = tree.sql(dialect="sqlite")
    assert sql_of(say(sql, style), style) == sql


@pytest.mark.parametrize("style", STYLES)
def test_sql_without_what_comes_first_is_taken_whole(style: Style) -> None:
    assert sql_of("SELECT a FROM t", style) == "SELECT a FROM t"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t WHERE b = 1 GROUP BY a", "SELECT _ FROM _ WHERE _ = _ GROUP BY _"),
        ("SELECT x.a, COUNT(*) AS n FROM t AS x GROUP BY x.a", "SELECT _, COUNT(*) FROM _ GROUP BY _"),
        ("SELECT a FROM t WHERE a IN ('x', 'y')", "SELECT _ FROM _ WHERE _ IN (_, _)"),
        ("SELECT a, 100 * b / 3 FROM t", "SELECT _, _ * _ / _ FROM _"),
        ("SELECT a FROM t WHERE b > (SELECT AVG(b) FROM t)", "SELECT _ FROM _ WHERE _ > (SELECT AVG(_) FROM _)"),
        ("SELECT STRFTIME('%Y', a) FROM t ORDER BY b DESC", "SELECT STRFTIME(_, _) FROM _ ORDER BY _ DESC"),
        ('SELECT "a b" FROM "t u" WHERE "a b" LIKE \'%x%\'', "SELECT _ FROM _ WHERE _ LIKE _"),
        (
            "SELECT a, LAG(b) OVER (PARTITION BY a ORDER BY b) FROM t",
            "SELECT _, LAG(_) OVER (PARTITION BY _ ORDER BY _) FROM _",
        ),
    ],
)
def test_skeletons(sql: str, expected: str) -> None:
    assert skeleton(sql) == expected


def test_a_skeleton_has_no_names_and_no_values(examples: list[Example], sqlite_readers: dict[str, Reader]) -> None:
    for example in examples:
        form = skeleton(example.sql, example.dialect)
        schema = sqlite_readers[example.database].schema
        names = {name for table in schema.tables for name in (table.name, *(column.name for column in table.columns))}
        assert not set(form.replace("(", " ").replace(")", " ").replace(",", " ").split()) & names
        assert not any(letter.isdigit() or letter == "'" for letter in form)


def test_skeletons_need_sql() -> None:
    with pytest.raises(DataError, match="skeleton: expected SQL, found"):
        skeleton("SELECT 'open")


def test_reasons_follow_the_query() -> None:
    sql = (
        "SELECT DISTINCT x.a FROM t AS x JOIN u AS y ON x.a = y.a WHERE x.b > (SELECT AVG(b) FROM t) "
        "ORDER BY x.a LIMIT 3"
    )
    assert say(sql, "reasoning").splitlines() == [
        "Table t (things): a, b",
        "Table u: a",
        "Inner show: AVG(b)",
        "Join on: x.a = y.a",
        "Only: x.b > (...)",
        "Order by: x.a",
        "Rows: 3",
        "Show different: x.a",
        f"SQL: {sql}",
    ]
    assert say("SELECT a FROM t INTERSECT SELECT a FROM u", "reasoning").splitlines()[2:5] == [
        "First show: a",
        "Second show: a",
        "Combine with INTERSECT",
    ]


def test_a_completion_is_checked_by_running(examples: list[Example], sqlite_readers: dict[str, Reader]) -> None:
    for example in examples[::7]:
        assert agrees(example.sql, example, sqlite_readers[example.database])
    reader = sqlite_readers["funds"]
    gold = Example("List the codes.", "SELECT fnd_code FROM mf_info", "funds")
    assert agrees("SELECT fnd_code FROM mf_info ORDER BY fnd_code DESC", gold, reader)
    assert not agrees("SELECT fnd_abbr FROM mf_info", gold, reader)
    ranked = Example("List the codes in order.", "SELECT fnd_code FROM mf_info ORDER BY fnd_code", "funds")
    assert not agrees("SELECT fnd_code FROM mf_info ORDER BY fnd_code DESC", ranked, reader)
    with pytest.raises(QueryError):
        agrees("SELECT SUM(COUNT(*)) FROM mf_info", gold, reader)


def test_unknown_styles_are_named() -> None:
    with pytest.raises(ConfigError, match="style: expected one of sql, skeleton, reasoning, found 'prose'"):
        sql_of("SELECT 1", "prose")  # type: ignore[arg-type]
