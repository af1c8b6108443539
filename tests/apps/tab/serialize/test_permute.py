"""Permutations: consistent, and nothing keeps its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltatune.apps.tab.serialize.permute import BINS, cycle, permuted_numbers, permuted_words

SEEDS = st.integers(0, 2**31)


@settings(deadline=None)
@given(st.integers(0, 30), SEEDS)
def test_nothing_keeps_its_place(count: int, seed: int) -> None:
    images = cycle(count, np.random.default_rng(seed))
    assert sorted(images) == list(range(count))
    assert count < 2 or all(image != at for at, image in enumerate(images))


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=1, max_size=20), SEEDS)
def test_words_take_each_others_places(words: list[str], seed: int) -> None:
    moved = permuted_words(words, np.random.default_rng(seed))
    assert {moved(word) for word in words} == set(words)
    assert len(set(words)) < 2 or all(moved(word) != word for word in words)
    assert moved("not there") == "not there"


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=10), SEEDS)
def test_a_few_numbers_take_each_others_places(numbers: list[int], seed: int) -> None:
    moved = permuted_numbers(np.array(numbers, dtype=float), np.random.default_rng(seed))
    assert {moved(number) for number in numbers} == set(numbers)
    assert len(set(numbers)) < 2 or all(moved(number) != number for number in numbers)
    assert all(isinstance(moved(number), int) for number in numbers)


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=11, max_size=80, unique=True), SEEDS)
@example([*map(float, range(10)), -116.99999999988358], 0)  # a whole number, but for the noise of its last digits
def test_many_numbers_move_to_another_tenth_and_stay_in_order_there(numbers: list[float], seed: int) -> None:
    values = np.array(numbers)
    moved = permuted_numbers(values, np.random.default_rng(seed))
    assert 2 <= len(moved.low) <= BINS

    def tenth(number: float) -> int:
        return max(int(np.searchsorted(moved.low, number, side="right")) - 1, 0)

    for number in numbers:
        image = moved(number)
        assert tenth(image) == moved.images[tenth(number)] != tenth(number)
        assert moved.low[tenth(image)] <= image <= moved.high[tenth(image)]
    for at in range(len(moved.low)):
        inside = sorted(number for number in numbers if tenth(number) == at)
        images = [moved(number) for number in inside]
        assert images == sorted(images)


def test_the_tenths_are_quantiles() -> None:
    numbers = np.random.default_rng(0).lognormal(size=1000)
    moved = permuted_numbers(numbers, np.random.default_rng(0))
    assert len(moved.low) == BINS
    np.testing.assert_allclose(moved.low[1:], np.quantile(numbers, np.arange(1, BINS) / BINS), rtol=0.05)


def test_numbers_keep_their_decimal_places() -> None:
    rng = np.random.default_rng(0)
    moved = permuted_numbers(rng.integers(0, 1000, 200) / 100, rng)
    assert moved.places == 2
    assert all(round(moved(number), 2) == moved(number) for number in (0.03, 4.51, 9.9))


def test_where_nearly_all_numbers_are_alike_they_still_move() -> None:
    numbers = np.array([0.0] * 990 + list(range(1, 21)))
    moved = permuted_numbers(numbers, np.random.default_rng(0))
    assert moved(0) != 0


@pytest.mark.parametrize("number", [-100.0, 2.5, 100.0])
def test_a_number_that_was_not_there_has_an_image(number: float) -> None:
    moved = permuted_numbers(np.array([1.0, 2.0, 3.0]), np.random.default_rng(0))
    assert moved(number) in (1, 2, 3)
