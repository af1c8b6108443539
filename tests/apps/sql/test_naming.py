"""Databases in words: names that are told apart, queries that come back as they were."""

from __future__ import annotations

import re

import pytest
import sqlglot
from hypothesis import given
from hypothesis import strategies as st

from deltatune.apps.sql.augment.joinless import with_joins, without_joins
from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.naming import Naming
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.apps.sql.scoring.results import same_result
from deltatune.apps.sql.synthesis import synthesize

FUNDS = database("funds")
TOLD = Naming.of(FUNDS, "meaning")


def test_names_say_what_comments_say() -> None:
    assert TOLD.tables["mf_div"] == "dividends_of_funds"
    assert TOLD.columns["mf_info", "mgt_fee"] == "management_fee"
    fee = TOLD.told.table("basic_facts_of_funds").column("management_fee")
    assert fee.comment == "% a year"  # what the name does not say
    company = TOLD.told.table("basic_facts_of_funds").column("code_of_fund_company")
    assert company.references == ("fund_management_companies", "code_of_fund_company")


def test_one_column_is_called_by_what_it_is_in_its_table() -> None:
    assert TOLD.columns["mf_company", "est_dt"] == "date_company_was_founded"
    assert TOLD.columns["mf_info", "est_dt"] == "date_fund_was_established"


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT mgt_fee FROM mf_info", "SELECT management_fee FROM basic_facts_of_funds"),
        (
            "SELECT i.mgt_fee AS fee FROM mf_info AS i WHERE i.fnd_abbr = 'mgt_fee' ORDER BY fee",
            "SELECT i.management_fee AS fee FROM basic_facts_of_funds AS i WHERE i.short_name_of_fund = 'mgt_fee' "
            "ORDER BY fee",
        ),
        (
            "SELECT mf_info.mgt_fee FROM mf_info",
            "SELECT basic_facts_of_funds.management_fee FROM basic_facts_of_funds",
        ),
        # Of a table that is not read, as where joins are left out.
        (
            "SELECT unit_nav FROM mf_nav WHERE mf_info.est_dt > '2020-01-01'",
            "SELECT net_asset_value_of_share FROM net_asset_value_of_funds "
            "WHERE basic_facts_of_funds.date_fund_was_established > '2020-01-01'",
        ),
        # Handed on by a subquery.
        (
            "SELECT fee.mgt_fee FROM (SELECT mgt_fee FROM mf_info) AS fee",
            "SELECT fee.management_fee FROM (SELECT management_fee FROM basic_facts_of_funds) AS fee",
        ),
    ],
)  # fmt: skip
def test_a_query_in_words(sql: str, told: str) -> None:
    assert TOLD.tell(sql, "sqlite", FUNDS) == told
    assert TOLD.mean(told) == sql


@pytest.mark.parametrize("name", SOURCES)
def test_queries_come_back_and_answer_the_same(name: str, sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers[name]
    naming = Naming.of(reader.schema, "meaning")
    examples = questions(reader, [t for t in TEMPLATES if t.database == name], per_template=1)
    examples += synthesize(reader, count=60, seed=6)
    for example in examples:
        left = without_joins(example.sql, "sqlite", reader.schema)
        told = naming.tell(left, "sqlite", reader.schema)
        assert told != left
        assert sqlglot.parse_one(naming.mean(told)) == sqlglot.parse_one(left)
        found = reader.run(with_joins(naming.mean(told), "sqlite", reader.schema))
        assert same_result(found, reader.run(example.sql), ordered=example.ordered)


def test_own_names_change_nothing() -> None:
    own = Naming.of(FUNDS, "own")
    odd = "select  Mgt_Fee from [mf_info]  -- as it is"
    assert own.told is FUNDS
    assert own.tell(odd, "sqlite", FUNDS) == own.mean(odd) == odd


def test_what_is_no_name_is_left_as_it_was_written() -> None:
    assert TOLD.mean("SELECT management_fees FROM 'management_fee' WHERE") == (
        "SELECT management_fees FROM 'management_fee' WHERE"
    )


def test_names_that_need_quotes_get_them() -> None:
    schema = Database("shop", (Table("item list", (Column("unit price", "real", "price of one piece"),)),))
    naming = Naming.of(schema, "meaning")
    assert naming.tables["item list"] == "item list"  # nobody said what it means
    assert naming.mean("SELECT price_of_one_piece") == 'SELECT "unit price"'
    mixed = Database("shop", (Table("item", (Column("UnitPrice", "real", "price of one piece"),)),))
    assert Naming.of(mixed, "meaning").mean("SELECT price_of_one_piece") == 'SELECT "UnitPrice"'


words = st.sampled_from(
    ["date", "count", "name", "the name", "name of the fund", "a", "1 if open, else 0", "", "5 + 5"]
)


@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from("abcdef"), words), min_size=1, max_size=6, unique_by=lambda pair: pair[0]),
        min_size=1,
        max_size=3,
    ),
    st.lists(words, min_size=3, max_size=3),
)
def test_no_name_stands_for_two_things(tables: list[list[tuple[str, str]]], about: list[str]) -> None:
    schema = Database(
        "any",
        tuple(
            Table(f"t{number}", tuple(Column(name, "text", comment) for name, comment in columns), meaning)
            for number, (columns, meaning) in enumerate(zip(tables, about, strict=False))
        ),
    )
    naming = Naming.of(schema, "meaning")
    own: dict[str, set[str]] = {}
    for name, told in naming.tables.items():
        own.setdefault(told, set()).add(name)
    for (_, name), told in naming.columns.items():
        own.setdefault(told, set()).add(name)
    assert all(len(names) == 1 for names in own.values())
    assert all(re.fullmatch(r"[a-z]\w*", told) for told in own)
    for table in naming.told.tables:
        assert len({column.name for column in table.columns}) == len(table.columns)
