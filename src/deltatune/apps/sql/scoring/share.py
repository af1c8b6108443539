"""Shares of right answers, with their intervals, and whether one system is right more often than another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["Paired", "Share", "paired", "share"]

LEVEL = 0.05  # of the test, and what the intervals leave out


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many, and between which ends the true share lies at 95 % confidence.

    The interval is Wilson's, which holds for few questions and near 0 and 1 too. It takes each question for one of its
    own: questions from one template are right or wrong together, so with several of each it is too narrow.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference"
    """

    right: int
    total: int

    @property
    def value(self) -> float:
        """The share, NaN of nothing."""
        return self.right / self.total if self.total else math.nan

    @property
    def low(self) -> float:
        """The lower end of the interval, 0 of nothing."""
        return self._middle() - self._half() if self.right else 0.0

    @property
    def high(self) -> float:
        """The upper end of the interval, 1 of nothing."""
        return self._middle() + self._half() if self.right < self.total else 1.0

    def _middle(self) -> float:
        return (self.right + _Z**2 / 2) / (self.total + _Z**2)

    def _half(self) -> float:
        spread = self.right * (self.total - self.right) / self.total + _Z**2 / 4
        return _Z * math.sqrt(spread) / (self.total + _Z**2)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two systems on the same questions.

    Args:
        gained: questions that only the first has right.
        lost: questions that only the second has right.
        total: all questions.
    """

    gained: int
    lost: int
    total: int

    @property
    def difference(self) -> float:
        """By how much the first's share of right answers is above the second's."""
        return (self.gained - self.lost) / self.total if self.total else 0.0

    @property
    def p_value(self) -> float:
        """How likely a difference at least as large is by chance: McNemar's exact test, of both sides.

        Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
        percentages"
        """
        changed = self.gained + self.lost
        tail = sum(math.comb(changed, i) for i in range(min(self.gained, self.lost) + 1))
        return min(1.0, 2 * tail / (1 << changed))

    @property
    def verdict(self) -> str:
        """Where chance alone does so in less than 5 % of cases "better" or "worse", otherwise "not told apart"."""
        if self.p_value >= LEVEL:
            return "not told apart"
        return "better" if self.gained > self.lost else "worse"


def share(right: Iterable[bool]) -> Share:
    """Count what is right."""
    found = list(right)
    return Share(sum(found), len(found))


def paired(right: Iterable[bool], before: Iterable[bool]) -> Paired:
    """Compare two systems, question by question."""
    pairs = list(zip(right, before, strict=True))
    return Paired(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))


_Z = NormalDist().inv_cdf(1 - LEVEL / 2)
