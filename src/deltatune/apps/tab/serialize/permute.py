"""The paper's ablations: does the model use what columns are called, and what values mean?

Permuted names: the columns take each other's names. Permuted values: in each column every value takes the place of
another, the same one in all rows; numbers do so in ten quantile bins. In both nothing that the permutation was drawn
from keeps its own place, and what can be learned from the shots stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ConfigDict

__all__ = ["Bins", "Words", "cycle", "permuted_numbers", "permuted_words"]

BINS = 10
PLACES = 6  # decimal places at most


@dataclass(frozen=True, slots=True)
class Words:
    """Words that take each other's places. One that was not there stays as it is.

    Args:
        images: what each word becomes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    images: dict[str, str]

    def __call__(self, word: str) -> str:
        """What a word becomes."""
        return self.images.get(word, word)


@dataclass(frozen=True, slots=True)
class Bins:
    """Ranges of numbers that take each other's places. A number keeps its place within its range.

    Args:
        low: the least number of each range, rising.
        high: the largest of each.
        images: the range that each becomes.
        places: decimal places of the numbers.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    low: tuple[float, ...]
    high: tuple[float, ...]
    images: tuple[int, ...]
    places: int

    def __call__(self, number: float) -> float:
        """What a number becomes. One between two ranges, or beyond all, goes with the next below, or the first."""
        at = max(int(np.searchsorted(self.low, number, side="right")) - 1, 0)
        width, to = self.high[at] - self.low[at], self.images[at]
        share = min(max((number - self.low[at]) / width, 0.0), 1.0) if width else 0.0
        moved = round(self.low[to] + share * (self.high[to] - self.low[to]), self.places)
        moved = min(max(moved, self.low[to]), self.high[to])
        return moved if self.places else int(moved)


def cycle(count: int, rng: np.random.Generator) -> list[int]:
    """A place for each of some things, none its own if there are two or more."""
    order = rng.permutation(count)
    images = np.empty(count, dtype=int)
    images[order] = np.roll(order, 1)
    return [int(image) for image in images]


def permuted_words(words: Sequence[str], rng: np.random.Generator) -> Words:
    """Let words take each other's places."""
    different = sorted(set(words))
    return Words(dict(zip(different, (different[at] for at in cycle(len(different), rng)), strict=True)))


def permuted_numbers(numbers: npt.NDArray[np.float64], rng: np.random.Generator) -> Bins:
    """Let the quantile bins of numbers take each other's places; up to ten different numbers are a bin each."""
    different = np.unique(numbers)
    bins = _bins(numbers, different)
    low, high = (getattr(bins, edge)().tolist() for edge in ("min", "max"))
    places = _places(different)
    if places < PLACES:  # without the noise of their last digits, which would make 117 of -116.9999999999 -116
        low, high = ([round(number, places) for number in edge] for edge in (low, high))
    return Bins(tuple(low), tuple(high), tuple(cycle(len(low), rng)), places)


def _bins(numbers: npt.NDArray[np.float64], different: npt.NDArray[np.float64]) -> pd.api.typing.SeriesGroupBy:
    values = pd.Series(different)
    if len(different) <= BINS:
        return values.groupby(values)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, BINS + 1)))
    if len(edges) < 3:  # nearly all numbers are the same one
        edges = np.quantile(different, np.linspace(0, 1, BINS + 1))
    return values.groupby(np.searchsorted(edges[1:-1], different, side="right"))


def _places(numbers: npt.NDArray[np.float64]) -> int:
    """Decimal places that all the numbers need."""
    return next((n for n in range(PLACES) if np.allclose(numbers, numbers.round(n), rtol=1e-12, atol=0)), PLACES)
