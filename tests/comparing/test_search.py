"""A learning rate for each method."""

from __future__ import annotations

import math

import pytest

from deltatune.comparing.search import Score, best_of, checked_rates, climb
from deltatune.errors import ConfigError


def peaked(at: float) -> object:
    """A score that is best at a learning rate."""
    return lambda rate: (-abs(math.log(rate / at)), 0.0)


@pytest.mark.parametrize("at", [2e-5, 1e-3, 2e-3, 3e-2, 0.5])
def test_climbing_finds_a_peak_on_either_side(at: float) -> None:
    found = climb(2e-3, peaked(at))  # type: ignore[arg-type]
    assert abs(math.log10(found.learning_rate / at)) <= 0.26
    assert not found.is_at_edge
    assert len(found.tried) <= 8


def test_climbing_stops_after_so_many_tries() -> None:
    found = climb(1e-3, lambda rate: (rate, 0.0), most=4)
    assert list(found.tried) == [1e-3, 3.2e-3, 1e-2, 3.2e-2]
    assert found.is_at_edge


def test_climbing_leaves_where_it_diverges() -> None:
    def score(rate: float) -> Score:
        return (-math.inf, -math.inf) if rate > 1e-3 else (1 - rate, 0.0)

    assert climb(1e-1, score).learning_rate < 1e-3


def test_the_best_of_a_grid_and_of_equals_the_lowest() -> None:
    assert best_of((1e-4, 1e-3, 1e-2), peaked(1e-3)).learning_rate == 1e-3  # type: ignore[arg-type]
    assert best_of((1e-4, 1e-3, 1e-2), lambda rate: (1.0, 0.0)).learning_rate == 1e-4
    scores = {1e-4: (1.0, -0.4), 1e-3: (1.0, -0.2), 1e-2: (0.9, -0.1)}
    assert best_of((1e-4, 1e-3, 1e-2), scores.__getitem__).learning_rate == 1e-3


def test_what_to_search_in() -> None:
    assert checked_rates(None) is None
    assert checked_rates("auto") == "auto"
    assert checked_rates("1e-2, 1e-4") == checked_rates([1e-4, 1e-2]) == (1e-4, 1e-2)


@pytest.mark.parametrize("rates", ["some", "1e-4", "0,1", [], "1e-3,nan"])
def test_what_can_not_be_searched_is_refused(rates: object) -> None:
    with pytest.raises(ConfigError, match="learning rates: expected auto, or two or more numbers above 0"):
        checked_rates(rates)  # type: ignore[arg-type]
