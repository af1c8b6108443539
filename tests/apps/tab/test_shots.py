"""Shots: balanced, without repetition, the same for a seed, and each draw part of the larger ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.tab.shots import SHOTS, draw_shots
from deltatune.errors import ConfigError, DataError

LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**31)


@st.composite
def draws(draw: st.DrawFn) -> tuple[list[str], int, int]:
    """Labels, and a number of shots that they allow."""
    labels = draw(LABELS)
    return labels, draw(st.integers(len(set(labels)), len(labels))), draw(SEEDS)


@settings(deadline=None)
@given(draws())
def test_a_draw_is_as_balanced_as_the_counts_allow_and_repeats_no_row(case: tuple[list[str], int, int]) -> None:
    labels, k, seed = case
    rows = draw_shots(labels, k, seed)
    assert len(rows) == len(set(rows.tolist())) == k
    drawn, there = Counter(labels[row] for row in rows), Counter(labels)
    most = max(drawn.values())
    for label, count in drawn.items():
        assert count == there[label] or count >= most - 1


@settings(deadline=None)
@given(draws(), st.data())
def test_a_smaller_draw_is_part_of_a_larger_one(case: tuple[list[str], int, int], data: st.DataObject) -> None:
    labels, k, seed = case
    fewer = data.draw(st.integers(len(set(labels)), k))
    assert set(draw_shots(labels, fewer, seed)) <= set(draw_shots(labels, k, seed))
    assert set(draw_shots(labels, k, seed)) <= set(draw_shots(labels, None, seed)) == set(range(len(labels)))


def test_the_seed_decides_and_not_the_kind_of_the_labels() -> None:
    labels = np.tile(["no", "yes"], 50)
    first = draw_shots(labels, 16, seed=3)
    np.testing.assert_array_equal(first, draw_shots(labels, 16, seed=3))
    np.testing.assert_array_equal(first, draw_shots(pd.Series(labels == "yes", index=range(7, 107)), 16, seed=3))
    np.testing.assert_array_equal(first, draw_shots(pd.Categorical(labels), 16, seed=3))
    assert set(first) != set(draw_shots(labels, 16, seed=4))


def test_every_row_of_a_class_is_as_likely() -> None:
    labels = ["a"] * 5 + ["b"] * 10
    counts = Counter(int(row) for seed in range(600) for row in draw_shots(labels, 2, seed))
    assert all(abs(counts[row] - 120) < 45 for row in range(5))
    assert all(abs(counts[row] - 60) < 35 for row in range(5, 15))


def test_no_shots_are_no_rows() -> None:
    assert SHOTS[0] == 0
    assert draw_shots(["a", "b"], 0).tolist() == []


def test_what_can_not_be_drawn_is_said() -> None:
    with pytest.raises(ConfigError, match="expected 0 or at least 3, one a class, found 2"):
        draw_shots(["a", "b", "c"], 2)
    with pytest.raises(ConfigError, match="found -1"):
        draw_shots(["a", "b", "c"], -1)
    with pytest.raises(DataError, match="expected at most 3, as there are rows, found 4"):
        draw_shots(["a", "b", "c"], 4)
    with pytest.raises(DataError, match="found none in row 1"):
        draw_shots(["a", None, "c"], 3)
