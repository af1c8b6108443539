"""Selections: within the schema, in its order, as small as asked, and joined."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.linking.match import ValueMatch
from deltatune.apps.sql.linking.ranking import Ranking
from deltatune.apps.sql.schema import Database, parse_database
from deltatune.errors import ConfigError

SCHOOL = parse_database(
    "school",
    """A school

pupil: who learns
pupil_id i* number of the pupil
pupil_name t name

course: what is taught
course_id i* number of the course
title t title

room: where
room_id i* number of the room
floor i floor

enrolment: who takes what
pupil_id i*>pupil.pupil_id number of the pupil
course_id i*>course.course_id number of the course
grade r grade

lesson: when
lesson_id i* number of the lesson
course_id i>course.course_id number of the course
day d day
""",
)


def ranking(schema: Database, best: Mapping[str, float]) -> Ranking:
    """A ranking with the given scores of "table" and "table.column", and nothing for the rest."""
    return Ranking(
        schema,
        {table.name: best.get(table.name, 0.0) for table in schema.tables},
        {t.name: {c.name: best.get(f"{t.name}.{c.name}", 0.0) for c in t.columns} for t in schema.tables},
    )


@pytest.mark.parametrize(
    ("best", "tables", "columns", "wanted"),
    [
        ({"room": 1, "room.floor": 1}, 1, 1, {"room": ("floor",)}),
        ({"room": 1}, 1, 1, {"room": ("room_id",)}),
        ({"room": 1, "room.floor": 1}, 1, 9, {"room": ("room_id", "floor")}),
        # A key between the two: both ends.
        (
            {"lesson": 2, "course": 1, "course.title": 1, "lesson.day": 1}, 2, 1,
            {"course": ("course_id", "title"), "lesson": ("course_id", "day")},
        ),
        # No key, but a table with keys to both.
        (
            {"pupil": 2, "course": 1, "pupil.pupil_name": 1, "course.title": 1}, 2, 1,
            {
                "pupil": ("pupil_id", "pupil_name"),
                "course": ("course_id", "title"),
                "enrolment": ("pupil_id", "course_id"),
            },
        ),
        # Both point to the same table.
        (
            {"enrolment": 2, "lesson": 1, "enrolment.grade": 1, "lesson.day": 1}, 2, 1,
            {"course": ("course_id",), "enrolment": ("course_id", "grade"), "lesson": ("course_id", "day")},
        ),
        # Two steps are too many.
        (
            {"pupil": 2, "lesson": 1, "pupil.pupil_name": 1, "lesson.day": 1}, 2, 1,
            {"pupil": ("pupil_name",), "lesson": ("day",)},
        ),
        # Each table has its best column; the rest go where they are likely.
        (
            {"pupil": 2, "lesson": 1, "pupil.pupil_id": 3, "pupil.pupil_name": 2, "lesson.day": 1}, 2, 1,
            {"pupil": ("pupil_id",), "lesson": ("day",)},
        ),
        (
            {"lesson": 2, "room": 1, "lesson.day": 4, "lesson.lesson_id": 3, "lesson.course_id": 2, "room.floor": 1},
            2, 2,
            {"room": ("floor",), "lesson": ("lesson_id", "course_id", "day")},
        ),
        # The bridge is chosen itself.
        (
            {"pupil": 3, "course": 2, "enrolment": 1, "pupil.pupil_name": 1, "course.title": 1, "enrolment.grade": 1},
            3, 1,
            {
                "pupil": ("pupil_id", "pupil_name"),
                "course": ("course_id", "title"),
                "enrolment": ("pupil_id", "course_id", "grade"),
            },
        ),
    ],
)  # fmt: skip
def test_what_is_selected(
    best: dict[str, float], tables: int, columns: int, wanted: dict[str, tuple[str, ...]]
) -> None:
    assert ranking(SCHOOL, best).select(tables, columns) == wanted


def test_the_best_of_several_bridges_is_taken() -> None:
    """Between funds and managers stand the company of both, and who managed what."""
    chosen = {"mf_info": 9.0, "mf_manager": 8.0}
    for bridge in ("mf_mgr_hist", "mf_company"):
        found = ranking(database("funds"), chosen | {bridge: 1.0}).select(2, 1)
        assert set(found) == {*chosen, bridge}


@given(st.data(), st.sampled_from(sorted(SOURCES)), st.integers(1, 20), st.integers(1, 40))
def test_a_selection_is_a_small_joined_part_of_the_schema(
    data: st.DataObject, name: str, tables: int, columns: int
) -> None:
    schema = database(name)
    score = st.floats(0, 1)
    drawn = Ranking(
        schema,
        {table.name: data.draw(score) for table in schema.tables},
        {t.name: {c.name: data.draw(st.sampled_from((0.0, 0.3, 0.9))) for c in t.columns} for t in schema.tables},
    )
    found = drawn.select(tables, columns)
    order = [table.name for table in schema.tables]
    assert list(found) == sorted(found, key=order.index)
    best = drawn.best_tables()[:tables]
    assert set(best) <= set(found)
    assert len(found) <= len(best) + max(len(best) - 1, 0)
    extra, left_out = [], []
    for table, chosen in found.items():
        names = [column.name for column in schema.table(table).columns]
        assert list(chosen) == [each for each in names if each in chosen]
        keys = {c.name for c in schema.table(table).columns if c.key or c.references}
        assert set(chosen) <= keys or table in best
        if table in best:
            first, *others = drawn.best_columns(table)
            assert first in chosen
            extra += [drawn.columns[table][c] for c in others if c in chosen and c not in keys]
            left_out += [drawn.columns[table][c] for c in others if c not in chosen]
        for column in schema.table(table).columns:
            if column.references and column.references[0] in found:
                assert column.name in chosen
                assert column.references[1] in found[column.references[0]]
    assert len(extra) <= tables * columns - len(best)
    assert min(extra, default=1.0) >= max(left_out, default=0.0)


@pytest.mark.parametrize(("tables", "columns", "message"), [(0, 7, "tables: expected"), (3, -1, "columns: expected")])
def test_nothing_can_not_be_selected(tables: int, columns: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ranking(SCHOOL, {}).select(tables, columns)


def match(table: str, column: str, said: str, score: float = 1.0) -> ValueMatch:
    return ValueMatch(table, column, said, said, score)


def test_values_lift_their_columns_and_tables() -> None:
    before = ranking(SCHOOL, {"room": 0.5, "course": 0.4, "course.title": 0.2})
    after = before.lifted([match("course", "title", "Algebra", 0.5)])
    assert after.columns["course"]["title"] == pytest.approx(1 - 0.8 * 0.5)
    assert after.tables["course"] == pytest.approx(1 - 0.6 * 0.5)
    assert after.tables["room"] == 0.5
    assert after.best_tables()[0] == "course"
    assert before.best_tables()[0] == "room"


def test_a_value_that_several_columns_hold_lifts_each_of_them_less() -> None:
    after = ranking(SCHOOL, {}).lifted([match("course", "title", "Ada"), match("pupil", "pupil_name", "Ada")])
    assert after.tables["course"] == after.tables["pupil"] == pytest.approx(0.5)


def test_values_of_what_is_gone_lift_nothing() -> None:
    before = ranking(SCHOOL, {"room": 0.5})
    assert before.lifted([match("old", "title", "Ada"), match("room", "old", "Ada")]) == before


@given(st.floats(0, 1), st.lists(st.floats(0, 1), max_size=4))
def test_a_lifted_score_is_a_score_and_no_lower(score: float, found: list[float]) -> None:
    before = ranking(SCHOOL, {"course": score, "course.title": score})
    after = before.lifted([match("course", "title", f"{i}", each) for i, each in enumerate(found)])
    assert score - 1e-12 <= after.tables["course"] <= 1
    assert score - 1e-12 <= after.columns["course"]["title"] <= 1
