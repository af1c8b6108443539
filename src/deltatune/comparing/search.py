"""A learning rate for a method: the best of a few, or found by climbing.

Climbing starts at the config's learning rate and goes on in half decades (1, 3.2, 10, …) in the direction that is
better, until neither neighbour is. Methods that train the input need rates tens of times those of methods that train
matrices; climbing finds either without a list of methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltatune.errors import ConfigError

__all__ = ["AUTO", "Choice", "Score", "best_of", "checked_rates", "climb"]

AUTO = "auto"
"""The word for climbing."""

MOST = 8
"""Tries of a climb."""

Score = tuple[float, float]
"""What a learning rate reached, the second part for ties; more is better, and minus infinity is a run that diverged."""


@dataclass(frozen=True)
class Choice:
    """The learning rate that was chosen."""

    learning_rate: float
    tried: dict[float, Score]
    """In rising order."""

    @property
    def is_at_edge(self) -> bool:
        """Whether it is the lowest or the highest that was tried, so that a better one may lie beyond."""
        return len(self.tried) > 1 and self.learning_rate in (min(self.tried), max(self.tried))


def checked_rates(rates: str | Sequence[float] | None) -> str | tuple[float, ...] | None:
    """The learning rates to search in: `AUTO`, several in rising order, or `None` for no search.

    Raises:
        ConfigError: they are none of these.
    """
    if rates is None or rates == AUTO:
        return None if rates is None else AUTO
    try:
        found = sorted({float(rate) for rate in (rates.split(",") if isinstance(rates, str) else rates)})
    except (TypeError, ValueError):
        found = []
    if len(found) < 2 or not all(0 < rate < math.inf for rate in found):
        raise ConfigError(
            f"learning rates: expected {AUTO}, or two or more numbers above 0, as in 1e-4,1e-3, "
            f"found {rates!r}; change it"
        )
    return tuple(found)


def best_of(rates: Sequence[float], score: Callable[[float], Score]) -> Choice:
    """Try each of some learning rates."""
    return _choice({rate: score(rate) for rate in rates})


def climb(start: float, score: Callable[[float], Score], most: int = MOST) -> Choice:
    """Try the start and its neighbours, and go on to where it is better.

    Args:
        start: the learning rate to begin with.
        score: tries one.
        most: tries at most.
    """
    tried: dict[int, Score] = {0: score(_rate(start, 0))}
    best = 0
    while len(tried) < most:
        next_ = next((step for step in (best + 1, best - 1) if step not in tried), None)
        if next_ is None:
            break
        tried[next_] = score(_rate(start, next_))
        best = max(tried, key=lambda step: (tried[step], -step))
    return _choice({_rate(start, step): tried[step] for step in sorted(tried)})


def _choice(tried: dict[float, Score]) -> Choice:
    return Choice(max(tried, key=lambda rate: (tried[rate], -rate)), tried)  # of equals the lowest: it is the safest


def _rate(start: float, step: int) -> float:
    return start if step == 0 else float(f"{start * 10 ** (step / 2):.2g}")
