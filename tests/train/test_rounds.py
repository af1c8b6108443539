"""Short loops: every item once before any again, and a rate that rises and falls."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from deltatune.train.rounds import rounds, up_and_down


@given(st.integers(1, 20), st.integers(0, 30), st.integers(1, 25), st.integers(0, 3))
def test_every_item_comes_once_before_any_comes_again(items: int, steps: int, batch: int, seed: int) -> None:
    drawn = list(rounds(range(items), batch, steps, random.Random(seed)))
    assert [len(step) for step in drawn] == [batch] * steps
    order = [item for step in drawn for item in reversed(step)]
    for start in range(0, len(order) - items + 1, items):
        assert sorted(order[start : start + items]) == list(range(items))
    assert drawn == list(rounds(range(items), batch, steps, random.Random(seed)))


def test_a_round_is_drawn_when_it_begins() -> None:
    drawing, reference = random.Random(0), random.Random(0)
    next(rounds("abcd", 2, 9, drawing))
    reference.sample("abcd", 4)
    assert drawing.getstate() == reference.getstate()


@given(st.integers(1, 500))
def test_the_rate_rises_over_a_tenth_and_falls_to_zero(steps: int) -> None:
    rates = [up_and_down(step, steps) for step in range(steps + 1)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert rates[-1] == 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak <= max(1, steps // 10)
