"""Means over seeds, with the interval that Student's t gives."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Interval", "interval", "student_t"]


@dataclass(frozen=True)
class Interval:
    """A mean, and how far the true one may be from it at 95 % confidence."""

    mean: float
    half: float | None
    """Half the width of the interval; `None` for a single value, which says nothing of how values vary."""
    values: tuple[float, ...]

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + (self.half or 0.0)


def interval(values: Sequence[float]) -> Interval:
    """The mean of values that vary normally, such as the scores of several seeds, and its 95 % interval."""
    count = len(values)
    half = student_t(count - 1) * statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Interval(statistics.fmean(values), half, tuple(values))


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, right to three decimals.

    Args:
        freedom: degrees of freedom, from 1.
    """
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    # Fisher's expansion around the normal quantile (Abramowitz and Stegun 26.7.5); the next term is below 1e-4 here.
    z = statistics.NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
