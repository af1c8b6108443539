"""The linker without a model: right where the question says what the schema says."""

from __future__ import annotations

import pytest

from deltatune.apps.sql.finance import database
from deltatune.apps.sql.linking.lexical import LexicalLinker


@pytest.mark.parametrize(
    ("name", "question", "table", "column"),
    [
        ("funds", "Which fund managers have a doctor as their highest degree?", "mf_manager", "edu"),
        ("funds", "What cash for ten shares did the dividends of funds pay?", "mf_div", "div_10"),
        ("funds", "Which custodian bank keeps the fund?", "mf_info", "cust_bank"),
        ("macro", "What is the unemployment rate?", "mc_labor", "unemp_rt"),
        ("macro", "Show the yields of government bonds at 30 years", "mc_yield", "y_30y"),
        ("macro", "Show taxes and publik debt of the budgets by year", "mc_fiscal", "debt_tot"),  # misspelt
        ("macro", "mc_pmi new_ord", "mc_pmi", "new_ord"),
    ],
)
def test_what_is_said_is_found(name: str, question: str, table: str, column: str) -> None:
    (ranking,) = LexicalLinker().rank([question], database(name))
    assert ranking.best_tables()[0] == table
    assert column in ranking.best_columns(table)[:3]


@pytest.mark.parametrize("question", ["", "???", "zzzz qqqq", "the " * 500, "' OR 1=1 --", "基金"])
def test_whatever_is_asked_every_table_and_column_has_a_score(question: str) -> None:
    schema = database("macro")
    (ranking,) = LexicalLinker().rank([question], schema)
    assert list(ranking.tables) == [table.name for table in schema.tables]
    for table in schema.tables:
        assert list(ranking.columns[table.name]) == [column.name for column in table.columns]
    scores = [*ranking.tables.values(), *(s for own in ranking.columns.values() for s in own.values())]
    assert all(0 <= score <= 1 for score in scores)


def test_questions_do_not_change_each_other() -> None:
    asked, schema = ["unemployment rate", "public debt"], database("macro")
    assert LexicalLinker().rank(asked, schema) == [LexicalLinker().rank([each], schema)[0] for each in asked]
    assert LexicalLinker().rank([], schema) == []
