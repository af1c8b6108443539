"""English from comments."""

from __future__ import annotations

import pytest

from deltatune.apps.sql.synthesis.words import (
    Meaning,
    about_one,
    is_plural,
    listed,
    meaning,
    owner,
    plural,
    relative,
    singular,
    spoken,
)


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("management fee, % a year", Meaning("management fee", "%")),
        ("registered capital, million", Meaning("registered capital", "million")),
        ("area, thousand square kilometres", Meaning("area", "thousand square kilometres")),
        ("food, change over a year before, %", Meaning("food (change over a year before)", "%")),
        ("type of fund: equity, mixed or bond", Meaning("type of fund", values=("equity", "mixed", "bond"))),
        ("gender: F or M", Meaning("gender", values=("F", "M"))),
        ("1 if the fund invests abroad, else 0", Meaning("a b", clause="the fund invests abroad")),
        ("last day, empty if still in charge", Meaning("last day", empty="still in charge")),
        ("risk level from 1 (low) to 5 (high)", Meaning("risk level")),
        ("", Meaning("a b")),
    ],
)
def test_meanings(comment: str, expected: Meaning) -> None:
    assert meaning(comment, "a_b") == expected


def test_a_name_without_a_comment_may_tell_a_flag() -> None:
    assert meaning("", "is_active") == Meaning("is active", clause="it is active")
    assert meaning("number of holders", "n").counted == "holders"


@pytest.mark.parametrize("name", ["unit_price", "UnitPrice", "Unit Price", "unitPrice"])
def test_names_are_words(name: str) -> None:
    assert spoken(name) == "unit price"


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("fund", "funds"),
        ("fund company", "fund companies"),
        ("benchmark index", "benchmark indices"),
        ("day", "days"),
        ("tax", "taxes"),
        ("branch", "branches"),
        ("person", "people"),
        ("loss", "losses"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many
    assert singular(many) == one


def test_what_is_no_plural_stays() -> None:
    assert [singular(word) for word in ("status", "analysis", "glass", "order")] == [
        "status",
        "analysis",
        "glass",
        "order",
    ]


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("net assets at the end of the quarter", True),
        ("management fees paid", True),
        ("shares held", True),
        ("capture of rising markets", False),
        ("number of holders", False),
        ("gross status", False),
        ("trade between regions", False),
    ],
)
def test_what_takes_are(noun: str, expected: bool) -> None:
    assert is_plural(noun) is expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("code of the fund", "fund"), ("stock code", "stock"), ("manager id", "manager"), ("closing price", "")],
)
def test_owners_of_keys(noun: str, expected: str) -> None:
    assert owner(noun) == expected


@pytest.mark.parametrize(
    ("clause", "holds", "expected"),
    [
        ("the fund invests abroad", True, "that invest abroad"),
        ("the fund invests abroad", False, "that do not invest abroad"),
        ("the fund is exchange traded", True, "that are exchange traded"),
        ("the fund is exchange traded", False, "that are not exchange traded"),
        ("the fund can be bought", False, "that can not be bought"),
        ("the fund was established", True, "that were established"),
        ("the state controls the fund", True, "where the state controls the fund"),
        ("a member of the union", False, "that are not a member of the union"),
        ("it has a guarantee", True, "that have a guarantee"),
    ],
)
def test_relative_clauses(clause: str, holds: bool, expected: str) -> None:
    assert relative(clause, {"fund"}, holds=holds) == expected


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("that are open", "that is open"),
        ("and that do not invest", "and that does not invest"),
        ("that invest abroad", "that invests abroad"),
        ("that can be bought", "that can be bought"),
        ("that entered late", "that entered late"),
        ("whose fee is low", "whose fee is low"),
    ],
)
def test_clauses_about_one(many: str, one: str) -> None:
    assert about_one(many) == one


def test_lists() -> None:
    assert [listed(list(text)) for text in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"
