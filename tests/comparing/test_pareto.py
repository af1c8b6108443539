"""The front of what nothing beats."""

from __future__ import annotations

from deltatune.comparing.pareto import front


def test_the_front_is_what_no_other_beats() -> None:
    points = [(1.0, 0.5), (2.0, 0.9), (3.0, 0.8), (4.0, 0.95), (0.5, 0.5), (2.0, 0.7)]
    assert front(points, higher=True) == [4, 1, 3]
    assert front([(cost, -quality) for cost, quality in points], higher=False) == [4, 1, 3]
    assert front([], higher=True) == []


def test_every_point_is_on_the_front_or_beaten_by_one_that_is() -> None:
    points = [((i * 37) % 101 / 10, (i * 53) % 97 / 10) for i in range(60)]
    kept = front(points, higher=True)
    for number, (cost, quality) in enumerate(points):
        beaten = any(points[k][0] <= cost and points[k][1] >= quality and points[k] != (cost, quality) for k in kept)
        assert beaten != (number in kept)
