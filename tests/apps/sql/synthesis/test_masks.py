"""Masked SQL: one form for what asks the same, different forms for what does not."""

from __future__ import annotations

import pytest

from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.synthesis import held_out, masked


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = 'x'"),
        ("SELECT a FROM t WHERE b = -1", "SELECT x.a FROM t AS x WHERE x.b = 2"),
        ("SELECT a FROM t WHERE b = 1 AND c > 2", "SELECT a FROM t WHERE c > 3 AND 5 = b"),
        ("SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN (3, 4, 5)"),
        (
            "SELECT x.a FROM t AS x JOIN u AS y ON x.k = y.k WHERE y.b = 1",
            "SELECT q.a FROM u AS p JOIN t AS q ON p.k = q.k WHERE p.b = 2",
        ),
        (
            "SELECT a, SUM(b) AS s FROM t GROUP BY a ORDER BY s DESC LIMIT 3",
            "SELECT a, SUM(b) AS total FROM t GROUP BY a ORDER BY SUM(b) DESC LIMIT 5",
        ),
        (
            "SELECT a FROM t WHERE b > (SELECT AVG(b) FROM t)",
            "SELECT x.a FROM t AS x WHERE x.b > (SELECT AVG(y.b) FROM t AS y)",
        ),
    ],
)
def test_what_asks_the_same_has_one_form(one: str, other: str) -> None:
    assert masked(one) == masked(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b > 1"),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM u WHERE b = 1"),
        ("SELECT a FROM t", "SELECT DISTINCT a FROM t"),
        ("SELECT a FROM t ORDER BY b", "SELECT a FROM t ORDER BY b LIMIT 1"),
        ("SELECT x.a FROM t AS x JOIN t AS y ON x.k = y.p", "SELECT y.a FROM t AS x JOIN t AS y ON x.k = y.p"),
        ("SELECT a FROM t LEFT JOIN u ON t.k = u.k", "SELECT a FROM t JOIN u ON t.k = u.k"),
    ],
)
def test_what_asks_another_thing_has_another(one: str, other: str) -> None:
    assert masked(one) != masked(other)


def test_filled_templates_are_found_in_every_dialect(readers: dict[str, Reader]) -> None:
    known = held_out(TEMPLATES)
    for name, reader in readers.items():
        for example in questions(reader, [t for t in TEMPLATES if t.database == name], per_template=2):
            assert masked(example.sql, reader.dialect) in known, example.sql


def test_each_choice_of_words_is_held_out() -> None:
    template = next(t for t in TEMPLATES if t.name == "funds-avg-fee")
    assert len(held_out([template])) == 2
