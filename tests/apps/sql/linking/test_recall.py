"""Recall: counted by hand on a small case."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from rich.console import Console

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.linking.gold import gold
from deltatune.apps.sql.linking.ranking import Ranking
from deltatune.apps.sql.linking.recall import covers, recall
from deltatune.apps.sql.schema import Database
from deltatune.errors import ConfigError, DataError

from .test_ranking import SCHOOL, ranking

JOIN = "SELECT e.grade FROM enrolment AS e JOIN pupil AS p ON e.pupil_id = p.pupil_id WHERE p.pupil_name = 'Ada'"


class Fixed:
    """Says what it was told, whatever it is asked; and notes how often."""

    def __init__(self, answer: Ranking) -> None:
        self.answer = answer
        self.calls = 0

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        self.calls += 1
        return [self.answer] * len(questions)


def test_counted_by_hand() -> None:
    """Gold is pupil (2 columns) and enrolment (2 columns), then room (1 column)."""
    examples = [Example("a", JOIN, "school"), Example("b", "SELECT floor FROM room", "school")]
    linker = Fixed(ranking(SCHOOL, {"pupil": 3, "room": 2, "enrolment": 1, "enrolment.grade": 1, "room.floor": 1}))
    found = recall(linker, examples, {"school": SCHOOL}, ks=(1, 2, 3), tables=2, columns=1)
    # Places of tables: pupil 0, enrolment 2, room 1; of columns: pupil 0 and 1, enrolment 1 and 0, room 0.
    assert found.tables == {1: pytest.approx(1 / 3), 2: pytest.approx(2 / 3), 3: 1.0}
    assert found.columns == {1: pytest.approx(3 / 5), 2: 1.0, 3: 1.0}
    assert found.whole == 0.5
    assert linker.calls == 1
    assert found.to_dict() == {"questions": 2, "tables": found.tables, "columns": found.columns, "whole": 0.5}
    console = Console(width=80)
    with console.capture() as printed:
        console.print(found)
    assert "2 questions, 50.0% whole" in printed.get()
    assert "66.7%" in printed.get()


def test_gold_and_what_covers_it() -> None:
    wanted = gold(Example("a", JOIN, "school"), SCHOOL)
    assert wanted == {"pupil": ("pupil_id", "pupil_name"), "enrolment": ("pupil_id", "grade")}
    assert covers({**wanted, "room": ("floor",)}, wanted)
    assert not covers({**wanted, "pupil": ("pupil_id",)}, wanted)
    assert not covers({"pupil": wanted["pupil"]}, wanted)


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([], ConfigError, "recall: expected examples, found none"),
        ([Example("a", JOIN, "shop")], DataError, "schemas: expected one of shop, found school"),
        ([Example("a", "SELECT (", "school")], DataError, "school: expected SQL that parses as sqlite"),
    ],
)
def test_what_can_not_be_measured_is_named(examples: list[Example], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recall(Fixed(ranking(SCHOOL, {})), examples, {"school": SCHOOL})
