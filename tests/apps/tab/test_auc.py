"""The area under the ROC curve against its definition."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.tab.auc import auc
from deltatune.errors import DataError


def by_definition(truth: np.ndarray, found: np.ndarray, classes: list[str]) -> float:
    """Hand and Till's mean over pairs of classes; of two classes this is the plain area."""

    def area(one: int, other: int) -> float:
        ours = found[truth == classes[one], one]
        theirs = found[truth == classes[other], one]
        above = (ours[:, None] > theirs).sum() + 0.5 * (ours[:, None] == theirs).sum()
        return float(above) / (len(ours) * len(theirs))

    pairs = list(combinations(range(len(classes)), 2))
    return sum((area(i, j) + area(j, i)) / 2 for i, j in pairs) / len(pairs)


@given(
    classes=st.sampled_from([["b", "a"], ["z", "x", "y"], ["d", "a", "c", "b"]]),
    extra=st.lists(st.integers(0, 3), max_size=20),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_mean_over_pairs_of_classes(classes: list[str], extra: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.array(classes + [classes[number % len(classes)] for number in extra])
    found = rng.integers(1, 4, (len(truth), len(classes))).astype(float)  # small numbers, so that there are ties
    found /= found.sum(axis=1, keepdims=True)
    assert auc(truth.tolist(), found, classes) == pytest.approx(by_definition(truth, found, classes), abs=1e-12)


def test_labels_may_be_anything() -> None:
    assert auc([1, 0, 1], [[0.1, 0.9], [0.6, 0.4], [0.3, 0.7]], [0, 1]) == 1.0
    assert auc([True, False], [[0.1, 0.9], [0.6, 0.4]], [True, False]) == 0.0


@pytest.mark.parametrize(
    ("truth", "found", "classes", "message"),
    [
        (["a", "b"], [[1, 0], [0, 1]], ["a"], "expected at least two, found 1"),
        (["a", "c"], [[1, 0], [0, 1]], ["a", "b"], "expected the classes a, b, found 'c'"),
        (["a", "a"], [[1, 0], [0, 1]], ["a", "b"], "expected rows of every class, found none of b"),
        (["a", "b"], [[1, 0]], ["a", "b"], r"expected 2 rows of 2 classes, found the shape \(1, 2\)"),
        (["a", "b"], [[1, 1], [0, 1]], ["a", "b"], "expected rows that add up to one"),
        (["a", "b"], [[float("nan"), 1], [0, 1]], ["a", "b"], "expected rows that add up to one"),
    ],
)
def test_what_has_no_area(truth: list[str], found: list[list[float]], classes: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        auc(truth, found, classes)
