"""An answer ends when it goes round in circles, and not before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltatune.apps.sql.constrained.loops import LEAST, LoopsEnd

PROMPT = [7] * 40


def length(tokens: list[int]) -> int | None:
    """After how many tokens an answer ends; `None` if it does not."""
    criterion = LoopsEnd()
    for count in range(1, len(tokens) + 1):
        if criterion(torch.tensor([[*PROMPT, *tokens[:count]]]), None).item():
            return count
    return None


@pytest.mark.parametrize(
    ("once", "ends"),
    [([5], LEAST), ([1, 2], LEAST), (list(range(8)), LEAST), (list(range(20)), 60), (list(range(30)), None)],
)
def test_a_stretch_that_is_said_again_and_again(once: list[int], ends: int | None) -> None:
    assert length(once * 100) == ends


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=100))
def test_what_says_nothing_twice_goes_on(tokens: list[int]) -> None:
    assert length(tokens) is None


def test_rows_end_by_themselves() -> None:
    criterion = LoopsEnd()
    rows = torch.tensor([[*PROMPT, *[1, 2] * 20], [*PROMPT, *range(40)]])
    for count in range(1, 41):
        found = criterion(rows[:, : len(PROMPT) + count], None)
    assert found.tolist() == [True, False]
