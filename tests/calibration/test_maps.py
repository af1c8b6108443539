"""Calibration of scores whose right calibration is known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from deltatune.calibration.maps import Calibration, contextual, loss, temperature
from deltatune.errors import DataError


def drawn(examples: int, classes: int, factor: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores that are ``factor`` times those that the labels were drawn by."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randn(examples, classes, generator=generator, dtype=torch.float64) * 1.5
    labels = torch.multinomial(true.softmax(-1), 1, generator=generator)[:, 0]
    return true * factor, labels


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_what_made_scores_too_sure(factor: float) -> None:
    found = temperature(*drawn(20_000, 4, factor))
    assert found.temperature == pytest.approx(factor, rel=0.05)


@given(st.integers(5, 60), st.integers(2, 5), st.floats(0.2, 5), st.integers(0, 99))
def test_no_other_temperature_is_better(examples: int, classes: int, factor: float, seed: int) -> None:
    scores, labels = drawn(examples, classes, factor, seed)
    found = temperature(scores, labels)

    def smoothed(t: float) -> float:
        return float(F.cross_entropy(scores / t, labels, label_smoothing=1 / (examples + 2)))

    best = minimize_scalar(smoothed, bounds=(0.01, 100), method="bounded")
    assert smoothed(found.temperature) <= best.fun + 1e-6


def test_few_examples_that_are_all_told_rightly_leave_doubt() -> None:
    scores, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1, 0, 1])
    assert 0.5 < float(temperature(scores, labels)(scores).max()) < 0.999


@given(st.floats(0.1, 10), st.integers(0, 99))
def test_a_temperature_changes_no_choice(value: float, seed: int) -> None:
    scores, _ = drawn(50, 3, 1.0, seed)
    assert torch.equal(Calibration(value)(scores).argmax(-1), scores.argmax(-1))


def test_content_free_inputs_favour_no_class_afterwards() -> None:
    scores = torch.tensor([[2.0, 0.0, -1.0], [1.0, 0.5, -2.0]])
    found = contextual(scores)
    mean = scores.double().softmax(-1).mean(0)
    torch.testing.assert_close(found(mean.log()[None])[0], torch.full((3,), 1 / 3, dtype=torch.float64))
    one = contextual(scores[:1])
    torch.testing.assert_close(one(scores[:1])[0], torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_constant_bias_is_undone() -> None:
    scores, labels = drawn(5_000, 3, 1.0)
    bias = torch.tensor([3.0, 0.0, -3.0])
    found = contextual(bias.expand(4, 3))
    torch.testing.assert_close(found(scores + bias), scores.softmax(-1))
    assert loss(found(scores + bias), labels) < loss(Calibration()(scores + bias), labels)


@given(st.floats(-50, 50))
def test_a_constant_added_to_a_row_changes_nothing(constant: float) -> None:
    scores, _ = drawn(10, 3, 1.0)
    found = Calibration(2.0, (0.1, 0.2, 0.3))
    torch.testing.assert_close(found(scores + constant), found(scores))


def test_plain_data_give_the_same_map() -> None:
    scores, _ = drawn(10, 3, 1.0)
    found = Calibration(2.0, (0.1, 0.2, 0.3))
    torch.testing.assert_close(Calibration(**found.to_dict())(scores), found(scores))


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(0, 3), [], r"expected scores \[examples, classes\] and a label for each, found \[0, 3\] and 0"),
        (torch.zeros(2, 3), [0], r"found \[2, 3\] and 1"),
        (torch.zeros(2, 1), [0, 0], r"found \[2, 1\] and 2"),
        (torch.tensor([[0.0, float("nan")]]), [0], "expected finite scores"),
        (torch.zeros(1, 2), [2], "expected labels from 0 to 1"),
    ],
)
def test_what_can_not_be_calibrated_is_refused(scores: Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        temperature(scores, labels)


def test_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="scores: expected 2 classes, found 3"):
        Calibration(offsets=(0.0, 1.0))(torch.zeros(1, 3))
