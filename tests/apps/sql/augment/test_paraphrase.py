"""Paraphrases: other words, the same values, the same SQL."""

from __future__ import annotations

import re

import pytest
import sqlglot
from sqlglot import exp

from deltatune.apps.sql.augment import paraphrase
from deltatune.apps.sql.examples import Example
from deltatune.errors import ConfigError


def ask(question: str, sql: str = "SELECT a FROM t") -> Example:
    return Example(question, sql, "shop")


def all_of(question: str, sql: str = "SELECT a FROM t") -> set[str]:
    return {example.question for example in paraphrase(ask(question, sql), 40)}


def test_values_stay_as_they_are(examples: list[Example]) -> None:
    made = 0
    for example in examples:
        literals = sqlglot.parse_one(example.sql, read="sqlite").find_all(exp.Literal)
        kept = {value.this for value in literals if value.this in example.question}
        for other in paraphrase(example, 4):
            made += 1
            assert other.question != example.question
            assert (other.sql, other.template, other.difficulty) == (example.sql, example.template, example.difficulty)
            for value in kept:
                whole = rf"(?<!\w){re.escape(value)}(?!\w)"
                found, wanted = (len(re.findall(whole, text)) for text in (other.question, example.question))
                assert found == wanted, (value, other.question)
            assert re.fullmatch(r"[A-Z\w].*[.?]", other.question, re.DOTALL)
    assert made > 1.5 * len(examples)


def test_each_wording_comes_once_and_the_same_again(examples: list[Example]) -> None:
    for example in examples[::10]:
        found = paraphrase(example, 5, seed=3)
        assert found == paraphrase(example, 5, seed=3)
        assert len({other.question for other in found}) == len(found) <= 5


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the fee of Alder?", "Tell me the fee of Alder."),
        ("How many funds are there?", "Count the funds."),
        ("List all open funds.", "Name all open funds."),
        ("Which funds have a high fee?", "List the funds that have a high fee."),
        ("Which funds are there whose fee is low?", "Find all funds whose fee is low."),
        ("Show funds with the highest fee.", "Show funds with the largest fee."),
        ("Rank regions, lowest first.", "Rank regions, smallest first."),
        ("By type, show the fee.", "By type, give the fee."),
    ],
)
def test_openings_and_words(question: str, expected: str) -> None:
    assert expected in all_of(question)


def test_words_change_only_where_they_have_that_sense() -> None:
    sql = "SELECT a FROM t WHERE b > 3"
    assert "Rank funds above 3 by return over one year." not in all_of(
        "Rank funds over 3 by return over one year.", sql
    )
    assert all_of("Rank funds over 3 by return over one year.", sql) == {
        "Rank funds more than 3 by return over one year."
    }
    assert all_of("Rank those with no more than 3.", sql) == {
        f"Rank those with {words} 3." for words in ("at most", "not more than", "up to")
    }
    assert not all_of("Rank what is under special treatment at month ends.")
    assert not all_of("Average the fee above average.")


def test_a_value_that_looks_like_a_rule_is_left_alone() -> None:
    sql = "SELECT a FROM t WHERE name = 'the average on 2024-01-31'"
    found = all_of("What is the fee of the average on 2024-01-31?", sql)
    assert found
    assert all("the average on 2024-01-31" in text for text in found)


def test_days_and_ranges() -> None:
    sql = "SELECT a FROM t WHERE d BETWEEN '2024-01-31' AND '2024-06-30'"
    assert all_of("Rank by fee between 2024-01-31 and 2024-06-30.", sql) == {
        "Rank by fee from 2024-01-31 to 2024-06-30."
    }
    found = {e.question for e in paraphrase(ask("Rank by fee on 2024-06-30.", sql), 40, dates=True)}
    assert "Rank by fee on June 30, 2024." in found
    assert "Rank by fee as of 30 June 2024." in found


def test_no_day_is_no_day() -> None:
    sql = "SELECT a FROM t WHERE d = '2024-02-31'"
    assert all(
        "2024-02-31" in e.question for e in paraphrase(ask("What is the fee on 2024-02-31?", sql), 9, dates=True)
    )


def test_counts() -> None:
    assert paraphrase(ask("What is the fee?"), 0) == []
    with pytest.raises(ConfigError, match="count: expected 0 or more, found -1"):
        paraphrase(ask("What is the fee?"), -1)
