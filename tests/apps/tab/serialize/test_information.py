"""Information: what says the class comes first, and what is only different in each row says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from deltatune.apps.tab.serialize.information import information

RNG = np.random.default_rng(0)
LABELS = np.tile([0, 1], 100)


def test_words_are_worth_what_they_say_beyond_chance() -> None:
    told = np.where(RNG.random(200) < 0.9, LABELS, 1 - LABELS).astype(str)
    noise, names = RNG.integers(0, 2, 200).astype(str), [f"row {row}" for row in range(200)]
    found = information([told, noise, names, ["same"] * 200], [False] * 4, LABELS)
    assert found[0] == pytest.approx(mutual_info_score(told, LABELS), abs=0.01)
    assert found[1:] == pytest.approx([0, 0, 0], abs=0.02)


def test_numbers_are_worth_more_the_better_they_tell() -> None:
    clear, weak, noise = LABELS * 10 + RNG.normal(size=200), LABELS + RNG.normal(size=200), RNG.normal(size=200)
    found = information([clear, weak, noise, [np.nan] * 200], [True] * 4, LABELS)
    assert found[0] == pytest.approx(np.log(2), abs=0.05)
    assert found[0] > found[1] > found[2]  # type: ignore[operator]
    assert found[3] == pytest.approx(0, abs=0.05)


def test_what_is_missing_tells_too() -> None:
    there = ["x" if label else None for label in LABELS]
    assert information([there], [False], LABELS) == pytest.approx([np.log(2)], abs=0.01)


def test_it_is_the_same_each_time_also_for_many_rows() -> None:
    labels = np.tile([0, 1, 2], 2000)
    column = labels + RNG.normal(size=6000)
    assert information([column], [True], labels) == information([column], [True], labels)


@pytest.mark.parametrize("labels", [[0, 1], ["a", "b", "c"], [1, 1, 1]])
def test_a_row_of_each_class_or_one_class_tell_nothing(labels: list[object]) -> None:
    assert information([list(range(len(labels)))], [True], labels) == [None]


def test_two_rows_of_a_class_are_enough() -> None:
    found = information([[1.0, 2.0, 9.0], ["a", "a", "b"]], [True, False], [0, 0, 1])
    assert all(nats is not None and nats >= 0 for nats in found)


def test_numbers_without_end_count_as_missing() -> None:
    endless, missing = ([1.0, 2.0, value, 9.0] for value in (np.inf, np.nan))
    assert information([endless], [True], [0, 0, 1, 1]) == information([missing], [True], [0, 0, 1, 1])
