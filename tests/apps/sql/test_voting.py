"""Self-consistency: who agrees with whom, and who wins."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.apps.sql.repair import Repair
from deltatune.apps.sql.run import Limits, Reader, Result
from deltatune.apps.sql.voting import Candidate, candidate, result_key, vote
from deltatune.errors import ConfigError


def ran(*rows: Any, sql: str = "SELECT a FROM t", score: float | None = None) -> Candidate:
    """A candidate that returned these values, or these rows."""
    found = tuple(row if isinstance(row, tuple) else (row,) for row in rows)
    return Candidate(sql, (), Result(("a",), found, sql, 0.0), None, score)


def failed(sql: str = "SELECT", score: float | None = None) -> Candidate:
    return Candidate(sql, (), None, "query: no", score)


@pytest.mark.parametrize(
    ("candidates", "winner", "sizes"),
    [
        ([ran(1)], 0, [1]),
        ([ran(1), ran(2), ran(2)], 1, [2, 1]),
        ([ran(1), ran(2), ran(1), ran(2), ran(1)], 0, [3, 2]),
        # those that do not run have no vote
        ([failed(), failed(), failed(), ran(1)], 3, [1]),
        ([failed("a"), failed("b"), failed("b")], 1, [2, 1]),
        # nothing loses against something, but not against more
        ([ran(), ran(1)], 1, [1, 1]),
        ([ran(), ran(), ran(1)], 0, [2, 1]),
        # then the probability, then who was first
        ([ran(1, score=-2.0), ran(2, score=-1.0)], 1, [1, 1]),
        ([ran(1, score=-3.0), ran(1, score=-0.5), ran(2, score=-1.0), ran(2, score=-2.0)], 2, [2, 2]),
        ([ran(1), ran(2, score=-9.0)], 1, [1, 1]),
        ([ran(2), ran(1)], 0, [1, 1]),
        ([ran(score=-1.0), ran(1, score=-2.0)], 1, [1, 1]),
    ],
)
def test_most_decide(candidates: Sequence[Candidate], winner: int, sizes: list[int]) -> None:
    found = vote(candidates)
    assert found.chosen is candidates[winner]
    assert [len(cluster) for cluster in found.clusters] == sizes
    assert found.size == sizes[0]
    assert found.chosen is found.clusters[0][0]


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        (ran(1, 2), ran(2, 1), True),
        (ran(1, 1, 2), ran(1, 2, 2), False),
        (ran(1, 2), ran(1, 2, 2), False),
        (ran((1, 2)), ran((2, 1)), False),
        (ran(0.1 + 0.2), ran(0.3), True),
        (ran(1.0), ran(1), True),
        (ran(Decimal("2.50")), ran(2.5), True),
        (ran(1.00001), ran(1), False),
        (ran(None), ran(0), False),
        (ran("1"), ran("1 "), False),
        (ran("1"), ran(1), False),
        (ran(12345678901), ran(12345678902), False),
        (ran(12345678901.0), ran(12345678901), True),
        (ran(datetime.datetime(2024, 1, 31)), ran("2024-01-31"), True),
        (ran(datetime.date(2024, 1, 31)), ran("2024-01-31"), True),
        (ran(float("nan")), ran(float("nan")), True),
        (ran(b"x"), ran(b"x"), True),
        (ran((["a", "b"],)), ran((["a", "b"],)), True),
        (ran(1, 2, sql="SELECT a FROM t ORDER BY a"), ran(2, 1, sql="SELECT a FROM t ORDER BY a DESC"), False),
        (ran(1, 2, sql="SELECT a FROM t ORDER BY a"), ran(1, 2, sql="SELECT b FROM t ORDER BY b"), True),
        (ran(1, sql="SELECT a FROM t ORDER BY a LIMIT 1"), ran(1, sql="SELECT MIN(a) FROM t"), True),
        (
            ran(1, 2, sql="SELECT a FROM (SELECT a FROM t ORDER BY a LIMIT 2)"),
            ran(2, 1, sql="SELECT RANK() OVER (ORDER BY a) FROM t WHERE b = 'ORDER BY'"),
            True,
        ),
    ],
)
def test_agreement_is_about_what_comes_out(one: Candidate, other: Candidate, agree: bool) -> None:
    assert (result_key(one) == result_key(other)) is agree
    assert len(vote([one, other]).clusters) == (1 if agree else 2)


@given(st.lists(st.sampled_from([ran(1), ran(2), ran(), failed("a"), failed("b")]), min_size=1, max_size=12))
def test_the_winner_is_of_the_largest_cluster_and_all_that_ran_are_in_one(candidates: list[Candidate]) -> None:
    found = vote(candidates)
    voters = [each for each in candidates if each.result] or candidates
    assert sum(len(cluster) for cluster in found.clusters) == len(voters)
    assert found.size == max(len(cluster) for cluster in found.clusters)
    keys = [{result_key(each) for each in cluster} for cluster in found.clusters]
    assert all(len(each) == 1 for each in keys)
    assert len(set.union(*keys)) == len(keys)


@given(st.permutations([1, 1, 1, 2, 2, 3]))
def test_the_order_of_candidates_does_not_change_a_clear_vote(values: list[int]) -> None:
    chosen = vote([ran(value) for value in values]).chosen
    assert chosen.result is not None
    assert chosen.result.rows == ((1,),)


def test_components_can_be_compared_instead() -> None:
    candidates = [ran(1, sql="SELECT a"), ran(1, sql="SELECT b"), ran(2, sql="SELECT b"), failed("SELECT b")]
    found = vote(candidates, by="components", key=lambda each: each.sql[-1])
    assert found.chosen is candidates[1]
    assert [len(cluster) for cluster in found.clusters] == [2, 1]


def test_a_vote_needs_voters_and_a_key() -> None:
    with pytest.raises(ConfigError, match="vote: expected at least one candidate, found none"):
        vote([])
    for arguments in ({"by": "components"}, {"key": str}, {"by": "length", "key": str}):
        with pytest.raises(ConfigError, match="vote: expected by='result', or by='components' with a key"):
            vote([ran(1)], **arguments)  # type: ignore[arg-type]


def test_candidates_are_mended_and_run(sqlite_readers: dict[str, Reader]) -> None:
    reader = sqlite_readers["funds"]
    text = "```sql\nSELCT COUNT(*) FROM mf_inf WHERE fnd_type = 'Bond';\n```"

    class Values:
        def closest(self, table: str, column: str, value: str) -> str | None:
            return "bond"

    mended = candidate(text, reader, values=Values(), log_probability=-0.5)
    assert mended.sql == "SELECT COUNT(*) FROM mf_info WHERE fnd_type = 'bond'"
    assert [each.kind for each in mended.repairs] == ["text", "keyword", "table", "value"]
    assert str(mended.repairs[2]) == "table: mf_inf -> mf_info"
    assert mended.problem is None
    assert mended.log_probability == -0.5
    assert mended.result is not None
    assert mended.result.rows == reader.run(mended.sql).rows
    raw = candidate(text, reader, repair=False)
    assert (raw.sql, raw.repairs, raw.result) == ("SELCT COUNT(*) FROM mf_inf WHERE fnd_type = 'Bond'", (), None)
    assert raw.problem is not None
    assert raw.problem.startswith("SQL: expected")


@pytest.mark.parametrize("repair", [True, False])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("DROP TABLE mf_info", "SQL: expected SELECT"),
        ("no idea", "SQL: expected"),
        ("SELECT ROUND(fnd_code, 1, 2) FROM mf_info", "query: expected an answer, found the error"),
    ],
)
def test_what_does_not_run_says_why(text: str, problem: str, repair: bool, sqlite_readers: dict[str, Reader]) -> None:
    found = candidate(text, sqlite_readers["funds"], repair=repair)
    assert found.result is None
    assert found.problem is not None
    assert found.problem.startswith(problem)


def test_what_takes_too_long_is_no_answer(sqlite_readers: dict[str, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    reader = sqlite_readers["funds"]
    monkeypatch.setattr(reader, "limits", Limits(seconds=0.05))
    slow = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT(*) FROM c"
    found = candidate(slow, reader)
    assert found.result is None
    assert found.problem is not None
    assert found.problem.startswith("query: expected an answer within 0.05 s")


def test_the_vote_of_five_tries(sqlite_readers: dict[str, Reader]) -> None:
    """Three ways to say the same, one mistake and one that can not run."""
    reader = sqlite_readers["funds"]
    texts = (
        "SELECT MAX(mgt_fee) FROM mf_manager_",
        "SELECT MIN(mgt_fee) FROM mf_info",
        "SELECT mgt_fee FROM mf_info ORDER BY mgt_fee DESC LIMIT 1",
        "SQL: SELECT MAX(i.mgt_fee) FROM mf_info AS i",
        "DELETE FROM mf_info",
    )
    found = vote([candidate(text, reader) for text in texts])
    assert found.size == 3
    assert found.chosen.result is not None
    assert found.chosen.result.rows == reader.run("SELECT MAX(mgt_fee) FROM mf_info").rows
    assert all(isinstance(each, Repair) for each in found.chosen.repairs)
