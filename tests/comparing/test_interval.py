"""Means and intervals, against scipy."""

from __future__ import annotations

import pytest

from deltatune.comparing.interval import interval, student_t


@pytest.mark.parametrize("freedom", [*range(1, 40), 100, 1000, 10**6])
def test_the_quantiles_of_student_t(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-4)


@pytest.mark.parametrize("values", [(0.9, 0.8), (0.91, 0.93, 0.87), tuple(i * i / 7 for i in range(20))])
def test_the_interval_of_a_mean(values: tuple[float, ...]) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-4), pytest.approx(high, rel=1e-4))
    assert found.values == values


def test_one_value_has_no_interval() -> None:
    found = interval([0.5])
    assert (found.mean, found.half) == (0.5, None)
