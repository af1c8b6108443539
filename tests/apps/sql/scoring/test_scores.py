"""What becomes of a question, and what is counted."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.finance import SOURCES
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.run import Limits, Reader, open_reader
from deltatune.apps.sql.scoring.scores import Outcome, outcome, scores, scores_by
from deltatune.apps.sql.scoring.share import Share
from deltatune.errors import DataError

RIGHT = "SELECT fnd_type, COUNT(*) FROM mf_info WHERE is_etf = 0 GROUP BY fnd_type"
EXAMPLE = Example("How many of each type?", RIGHT, "funds", difficulty="medium")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The funds with other values."""
    file = tmp_path_factory.mktemp("other") / "funds.sqlite"
    generate("funds", file, size="tiny", seed=7)
    with open_reader(file) as reader:
        yield reader


@pytest.mark.parametrize(
    ("sql", "valid", "right", "exact", "problem"),
    [
        (RIGHT, True, True, True, ""),
        ("select count(*) as n, i.fnd_type from mf_info as i where 0 = i.is_etf group by 2", True, True, True, ""),
        ("SELECT fnd_type, COUNT(fnd_code) FROM mf_info WHERE NOT is_etf = 1 GROUP BY fnd_type", True, True, False, ""),
        ("SELECT fnd_type, COUNT(*) FROM mf_info WHERE is_etf = 9 GROUP BY fnd_type", True, False, True, ""),
        ("SELECT fnd_type, COUNT(*) FROM mf_info GROUP BY curr", True, False, False, ""),
        ("SELECT fnd_type, FROM", False, False, False, "SQL: expected"),
        ("", False, False, False, "SQL: expected one statement, found 0"),
        ("SELECT nothing FROM mf_info", False, False, False, "SQL: expected a column of the tables in this query"),
        ("DELETE FROM mf_info", False, False, False, "SQL: expected SELECT, found DELETE"),
        ("SELECT est_dt FROM mf_info, mf_company", False, False, False, "query: expected an answer, found the error"),
        ("SELECT 1 FROM mf_info, mf_info", True, False, False, ""),
    ],
)
def test_outcomes(
    sql: str, valid: bool, right: bool, exact: bool, problem: str, sqlite_readers: dict[str, Reader]
) -> None:
    found = outcome(EXAMPLE, sql, sqlite_readers["funds"], repairs=["a comma"], seconds=2.5)
    assert (found.valid, found.executed_right, found.exact_set) == (valid, right, exact)
    assert (found.problem is None) == valid
    assert (found.problem or "").startswith(problem)
    assert (found.example, found.sql, found.repairs, found.seconds) == (EXAMPLE, sql, ("a comma",), 2.5)


def test_what_can_not_be_taken_apart_may_still_be_right(sqlite_readers: dict[str, Reader]) -> None:
    sql = """WITH RECURSIVE n(d) AS (SELECT MIN(est_dt) FROM mf_info UNION ALL SELECT i.est_dt FROM mf_info AS i
    JOIN n ON i.est_dt > n.d WHERE i.est_dt < '2000-01-01') SELECT COUNT(*) FROM n"""
    example = Example("How many?", sql, "funds")
    same = outcome(example, sql, sqlite_readers["funds"])
    assert (same.valid, same.executed_right, same.exact_set) == (True, True, True)
    other = outcome(example, "SELECT 1", sqlite_readers["funds"])
    assert (other.valid, other.exact_set) == (True, False)


def test_what_was_not_written_is_not_run(sqlite_readers: dict[str, Reader]) -> None:
    found = outcome(EXAMPLE, RIGHT, sqlite_readers["funds"], "no SQL in the answer")
    assert found == Outcome(EXAMPLE, RIGHT, problem="no SQL in the answer")


def test_what_takes_too_long_is_not_valid(sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers["funds"]
    before = reader.limits
    endless = "SELECT COUNT(*) FROM mf_nav AS a, mf_nav AS b, mf_nav AS c, mf_nav AS d"
    try:
        outcome(EXAMPLE, RIGHT, reader)
        reader.limits = Limits(seconds=0.05)
        found = outcome(EXAMPLE, endless, reader)
    finally:
        reader.limits = before
    assert not found.valid
    assert "expected an answer within 0.05 s" in (found.problem or "")


def test_the_order_counts_where_the_right_query_has_one(sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers["funds"]
    ordered = Example("?", "SELECT fnd_code FROM mf_info ORDER BY fnd_code", "funds")
    free = Example("?", "SELECT fnd_code FROM mf_info", "funds")
    turned = "SELECT fnd_code FROM mf_info ORDER BY fnd_code DESC"
    assert not outcome(ordered, turned, reader).executed_right
    assert outcome(free, turned, reader).executed_right


def test_another_database_tells_chance_from_right(sqlite_readers: dict[str, Reader], other: Reader) -> None:
    reader = sqlite_readers["funds"]
    count = reader.run("SELECT COUNT(*) FROM mf_holding WHERE nav_pct > 5").rows[0][0]
    example = Example("?", "SELECT COUNT(*) FROM mf_holding WHERE nav_pct > 5", "funds")
    lucky = f"SELECT COUNT(*) + {count} - COUNT(*) FROM mf_holding"
    assert other.run(example.sql).rows[0][0] != count
    assert outcome(example, lucky, reader).executed_right
    assert not outcome(example, lucky, reader, others=[other]).executed_right
    assert outcome(example, example.sql, reader, others=[other]).executed_right


def test_the_right_query_runs_once_for_each_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate("funds", tmp_path / "funds.sqlite", size="tiny")
    ran: list[str] = []
    with open_reader(tmp_path / "funds.sqlite") as reader, open_reader(tmp_path / "funds.sqlite") as twin:
        run = Reader.run
        monkeypatch.setattr(Reader, "run", lambda self, sql: (ran.append(sql), run(self, sql))[1])
        for each in (reader, reader, twin):
            outcome(EXAMPLE, "SELECT fnd_code FROM mf_info", each)
    assert ran.count("SELECT fnd_code FROM mf_info") == 3
    assert ran.count(RIGHT) == 2


def test_the_results_that_are_kept_keep_no_reader(tmp_path: Path) -> None:
    import weakref

    generate("funds", tmp_path / "funds.sqlite", size="tiny")
    reader = open_reader(tmp_path / "funds.sqlite")
    outcome(EXAMPLE, RIGHT, reader)
    reader.close()
    gone = weakref.ref(reader)
    del reader
    gc.collect()
    assert gone() is None


def test_a_right_query_that_is_of_no_use_is_named(sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers["funds"]
    wrong = Example("?", "SELECT nothing FROM mf_info", "funds")
    with pytest.raises(DataError, match="funds: expected right SQL that runs, found 'SELECT nothing FROM mf_info'"):
        outcome(wrong, RIGHT, reader)
    with pytest.raises(DataError, match="funds: expected at most 10,000 rows"):
        outcome(Example("?", "SELECT 1 FROM mf_nav, mf_info", "funds"), RIGHT, reader)


@pytest.mark.parametrize("name", SOURCES)
def test_the_right_query_is_right_everywhere(name: str, readers: dict[str, Reader]) -> None:
    reader = readers[name]
    templates = [template for template in TEMPLATES if template.database == name]
    found = [outcome(each, each.sql, reader) for each in questions(reader, templates, per_template=1)]
    everything = Share(len(templates), len(templates))
    total = scores(found)
    assert total.execution == total.exact_set == total.valid == everything


def made(database: str, difficulty: str, marks: str) -> Outcome:
    """An outcome by its marks: v(alid), r(ight), e(xact)."""
    example = Example("?", "SELECT 1", database, difficulty=difficulty)
    return Outcome(example, "", valid="v" in marks, executed_right="r" in marks, exact_set="e" in marks)


OUTCOMES = [
    made("macro", "hard", "vr"),
    made("funds", "easy", "vre"),
    made("funds", "easy", "v"),
    made("funds", "hard", ""),
    made("macro", "easy", "vre"),
]


def test_scores_count() -> None:
    found = scores(OUTCOMES)
    assert (found.execution, found.exact_set, found.valid) == (Share(3, 5), Share(2, 5), Share(4, 5))


def test_scores_by_any_key() -> None:
    by_difficulty = scores_by(OUTCOMES, lambda each: each.example.difficulty)
    assert list(by_difficulty) == ["easy", "hard"]
    assert by_difficulty["easy"].execution == Share(2, 3)
    assert by_difficulty["hard"].execution == Share(1, 2)
    by_database = scores_by(OUTCOMES, lambda each: "unseen" if each.example.database == "macro" else "seen")
    assert {name: each.execution for name, each in by_database.items()} == {"unseen": Share(2, 2), "seen": Share(1, 3)}
    assert by_database["seen"].valid == Share(2, 3)
