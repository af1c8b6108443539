"""Shares, their intervals, and the test of two systems on the same questions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from deltatune.apps.sql.scoring.share import Paired, Share, paired, share


@given(st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    found = Share(*counts)
    wanted = binomtest(*counts).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_share_of_nothing_can_be_anything() -> None:
    found = share([])
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


def test_shares_are_counted() -> None:
    assert share([True, False, True]) == Share(2, 3)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_test_is_mcnemars_exact_one(gained: int, lost: int) -> None:
    found = Paired(gained, lost, 200)
    wanted = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert found.p_value == pytest.approx(wanted)
    assert Paired(lost, gained, 200).p_value == found.p_value


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [
        (0, 0, "not told apart"),
        (5, 0, "not told apart"),  # p = 0.0625
        (6, 0, "better"),  # p = 0.03125
        (0, 6, "worse"),
        (12, 4, "not told apart"),  # p = 0.077
        (13, 3, "better"),  # p = 0.021
        (2000, 1000, "better"),
    ],
)
def test_verdicts(gained: int, lost: int, verdict: str) -> None:
    assert Paired(gained, lost, 5000).verdict == verdict


def test_pairs_are_counted() -> None:
    found = paired([True, True, False, True], [True, False, True, False])
    assert found == Paired(gained=2, lost=1, total=4)
    assert found.difference == 0.25
    with pytest.raises(ValueError, match="argument 2"):
        paired([True], [True, False])
