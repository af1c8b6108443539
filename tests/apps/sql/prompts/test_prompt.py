"""Prompts: what they say, in which order, and how they keep to a budget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.prompts import PromptStyle, with_fillers, write_prompt
from deltatune.apps.sql.prompts.prompt import Written
from deltatune.apps.sql.schema import Column, Database, Selection, Table, everything
from deltatune.errors import DataError

SHOP = Database(
    "shop",
    (
        Table(
            "item",
            (
                Column("code", "text", "code of the item", key=True, samples=("A1", "B2")),
                Column("price", "real", "price", samples=(1.5, 2.5)),
                Column("kind", "text"),
            ),
            "what is sold",
        ),
        Table(
            "sale",
            (
                Column("no", "int", key=True),
                Column("code", "text", "code of the item", references=("item", "code"), samples=("A1",)),
                Column("day", "date", "day of the sale", samples=("2024-01-31",)),
            ),
        ),
    ),
)


def words(text: str) -> int:
    return len(text.split())


def test_a_prompt() -> None:
    shown = {"item": ("code", "price"), "sale": ("code", "day")}
    values = ["item.code = 'A1'"]
    found = write_prompt("How many?", SHOP, shown, dialect="sqlite", values=values, evidence="one is many").text
    assert found == (
        "SQLite tables:\n"
        "item: what is sold\n"
        "- code text key: code of the item, as A1, B2\n"
        "- price real: price\n"
        "sale\n"
        "- code text = item.code: code of the item, as A1\n"
        "- day date: day of the sale, as 2024-01-31\n"
        "\n"
        "Values: item.code = 'A1'\n"
        "Note: one is many\n"
        "Question: How many?\n"
        "SQL:"
    )


def test_a_model_that_was_not_trained_is_told_what_to_do() -> None:
    style = PromptStyle(instruct=True)
    found = write_prompt("How many?", SHOP, {"item": ("code",)}, dialect="duckdb", style=style).text
    assert found.startswith("Write one DuckDB query that answers the question. Answer with the query alone.\n\nDuckDB")


def test_a_prompt_without_keys() -> None:
    shown = {"item": ("code",), "sale": ("code",)}
    found = write_prompt("How many?", SHOP, shown, dialect="sqlite", style=PromptStyle(samples=0, keys=False)).text
    assert "- code text: code of the item\nsale\n- code text: code of the item\n" in found


def test_prompts_about_the_same_tables_begin_alike() -> None:
    one, other = (
        write_prompt(question, SHOP, everything(SHOP), dialect="duckdb", values=values).text
        for question, values in (("First?", ["item.kind = 'x'"]), ("Second?", []))
    )
    alike = one[: one.index("Values:")]
    assert other.startswith(alike)
    assert "day of the sale" in alike


def test_a_budget_leaves_out_the_least_important_first() -> None:
    def written(budget: int | None) -> Written:
        style = PromptStyle(budget=budget)
        return write_prompt("How many?", SHOP, everything(SHOP), dialect="sqlite", style=style, count=words)

    seen = []
    for budget in range(words(written(None).text), 6, -1):
        text, shown = written(budget)
        assert all(f"- {column} " in text for columns in shown.values() for column in columns)
        assert words(text) <= budget
        assert text.endswith("Question: How many?\nSQL:")
        seen.append(text)
    at = {
        mark: sum(mark in text for text in seen)
        for mark in (", as A1", "code of the item", "price real", "- code text key")
    }
    assert list(at.values()) == sorted(at.values())
    assert 0 < at[", as A1"] < at["code of the item"] < at["price real"] < at["- code text key"]


def test_what_is_worth_more_stays_longer() -> None:
    def left(budget: int, **worth: float) -> Selection:
        style, places = PromptStyle(budget=budget), {("item", column): value for column, value in worth.items()}
        shown = everything(SHOP)
        return write_prompt("How many?", SHOP, shown, dialect="sqlite", worth=places, style=style, count=words).shown

    bare = "SQLite tables: item - code text key - price real sale - no int key - code text = item.code"
    room = words(f"{bare} Question: How many? SQL:")
    assert left(room)["item"] == ("code", "price")
    assert left(room, kind=0.5)["item"] == ("code", "kind")
    assert left(room, kind=0.5, price=0.9)["item"] == ("code", "price")


def test_a_question_that_fits_in_no_budget_is_refused() -> None:
    with pytest.raises(DataError, match="expected a question that fits in 4 tokens"):
        write_prompt(
            "one two three four", SHOP, everything(SHOP), dialect="sqlite", style=PromptStyle(budget=4), count=words
        )


@st.composite
def needs(draw: st.DrawFn) -> tuple[Database, Selection]:
    schema = database(draw(st.sampled_from(sorted(SOURCES))))
    tables = draw(st.lists(st.sampled_from(schema.tables), min_size=1, max_size=4, unique_by=lambda table: table.name))
    return schema, {
        table.name: tuple(
            column.name
            for column in table.columns
            if draw(st.booleans())
        )
        for table in schema.tables
        if table in tables
    }  # fmt: skip


@given(needs(), st.integers(0, 9), st.integers(1, 5), st.integers(1, 9))
def test_fillers_keep_what_is_needed(wanted: tuple[Database, Selection], seed: int, tables: int, columns: int) -> None:
    schema, gold = wanted
    shown = with_fillers(gold, schema, random.Random(seed), tables=tables, columns=columns)
    assert all(set(names) <= set(shown[table]) for table, names in gold.items())
    assert len(shown) == max(len(gold), min(tables, len(schema.tables)))
    assert list(shown) == [table.name for table in schema.tables if table.name in shown]
    for name, kept in shown.items():
        table = schema.table(name)
        assert list(kept) == [column.name for column in table.columns if column.name in kept]
        assert len(kept) >= min(columns, len(table.columns))
        for column in table.columns:
            if column.references and column.references[0] in shown:
                assert column.name in kept
                assert column.references[1] in shown[column.references[0]]
    assert shown == with_fillers(gold, schema, random.Random(seed), tables=tables, columns=columns)
