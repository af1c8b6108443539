"""Random numbers, dates and names for the databases, the same ones for the same seed on every system.

NumPy promises that the stream of `RandomState` never changes; that of its newer generators may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LAST_DAY", "Batch", "Draw", "Floats", "Size", "business_days", "month_ends", "quarter_ends"]

LAST_DAY = np.datetime64("2024-12-31")
Floats = NDArray[np.float64]
Batch = tuple[str, Mapping[str, Sequence[Any] | NDArray[Any]]]
"""A table's name, and a piece of its rows, column by column."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to make.

    Args:
        members: funds, companies or regions.
        days: trading days, counted back from the end of 2024.
        quarters: quarters of statements, counted back likewise.
    """

    members: int
    days: int
    quarters: int


class Draw:
    """A stream of random values; streams of different labels are independent of each other."""

    def __init__(self, seed: int, label: str) -> None:
        digest = hashlib.sha256(f"{seed}:{label}".encode()).digest()
        self._state = np.random.RandomState(np.frombuffer(digest, dtype="<u4"))

    def normal(self, mean: float, spread: float, count: int) -> Floats:
        """Normal values."""
        return self._state.normal(mean, spread, count)

    def uniform(self, low: float, high: float, count: int, digits: int = 4) -> Floats:
        """Evenly spread values, rounded."""
        return np.round(self._state.uniform(low, high, count), digits)

    def whole(self, low: int, high: int, count: int) -> NDArray[np.int64]:
        """Whole numbers from `low` to `high`, both included."""
        return self._state.randint(low, high + 1, count, dtype=np.int64)

    def large(self, middle: float, spread: float, count: int, digits: int = 2) -> Floats:
        """Log-normal values around a median: few large, many small, as sizes in finance are."""
        return np.round(middle * np.exp(self._state.normal(0, spread, count)), digits)

    def pick(self, items: Sequence[str], count: int, weights: Sequence[float] | None = None) -> list[str]:
        """Items, each drawn anew; weights need not sum to one."""
        shares = None if weights is None else np.asarray(weights, dtype=float) / sum(weights)
        return [items[i] for i in self._state.choice(len(items), count, p=shares)]

    def some(self, total: int, count: int) -> NDArray[np.int64]:
        """Distinct positions below `total`."""
        return self._state.permutation(total)[:count]

    def days(self, first: str, last: str, count: int) -> NDArray[np.datetime64]:
        """Days from the first to the last, both included."""
        start = np.datetime64(first, "D")
        return np.asarray(start + self.whole(0, int((np.datetime64(last, "D") - start).astype(int)), count))

    def names(self, first: Sequence[str], second: Sequence[str], count: int) -> list[str]:
        """Distinct names of two parts; numbered where there are more than the parts allow."""
        pairs = [f"{a} {b}" for a in first for b in second]
        order = self._state.permutation(len(pairs))
        return [
            pairs[order[i % len(pairs)]] + (f" {i // len(pairs) + 1}" if i >= len(pairs) else "") for i in range(count)
        ]

    def parts(self, total: Floats, weights: Sequence[float], noise: float = 0.15, digits: int = 2) -> list[Floats]:
        """Split each total by weights and some noise, into rounded parts; the last takes what is left."""
        raw = [w * np.exp(self._state.normal(0, noise, len(total))) for w in weights]
        whole = np.sum(raw, axis=0)
        pieces = [np.round(total * piece / whole, digits) for piece in raw[:-1]]
        return [*pieces, np.round(total - np.sum(pieces, axis=0), digits)]

    def path(self, start: float, drift: float, spread: float, count: int) -> Floats:
        """A price that moves by small normal steps, unrounded."""
        return start * np.exp(np.cumsum(self._state.normal(drift, spread, count)))

    def around(self, mean: float, pull: float, spread: float, count: int) -> Floats:
        """A rate that wanders and is pulled back to its mean, rounded to two digits."""
        steps, value = self._state.normal(0, spread, count), 0.0
        wandering = np.empty(count)
        for i, step in enumerate(steps):
            value = (1 - pull) * value + step
            wandering[i] = value
        return np.round(mean + wandering, 2)


def business_days(count: int) -> NDArray[np.datetime64]:
    """The last `count` weekdays of the data."""
    return np.busday_offset(LAST_DAY, np.arange(1 - count, 1), roll="backward")


def month_ends(count: int) -> NDArray[np.datetime64]:
    """The last `count` month ends of the data."""
    first = LAST_DAY.astype("datetime64[M]") + np.arange(1 - count, 1)
    return np.asarray((first + 1).astype("datetime64[D]") - 1)


def quarter_ends(count: int) -> NDArray[np.datetime64]:
    """The last `count` quarter ends of the data."""
    return month_ends(3 * count)[2::3]
