"""Short loops over few examples: in what order they come, and how the learning rate goes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["rounds", "up_and_down"]

_Item = TypeVar("_Item")


def rounds(items: Sequence[_Item], batch: int, steps: int, rng: random.Random) -> Iterator[list[_Item]]:
    """The items of each step, every one once before any comes again.

    Args:
        items: at least one.
        batch: how many a step.
        steps: how many steps.
        rng: what draws the order, anew for each round and only when it begins.
    """
    waiting: list[_Item] = []
    for _ in range(steps):
        while len(waiting) < batch:
            waiting = [*rng.sample(items, len(items)), *waiting]
        cut = len(waiting) - batch
        yield waiting[cut:]
        waiting = waiting[:cut]


def up_and_down(step: int, steps: int) -> float:
    """The share of the highest learning rate: it rises over the first tenth of the steps and falls to zero."""
    rising = max(1, steps // 10)
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising))
