"""The loss is its formula, and so are its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deltatune.apps.tab.loss import EPSILON, choice_loss, language_loss, means, tfew_loss, unlikelihood_loss

Answers = list[list[list[float]]]
"""Of rows, of their answers: the probability of each token."""

PROBABILITIES = st.floats(1e-6, 1 - 1e-6)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Answers, list[int]]:
    classes, rows = draw(st.integers(2, 4)), draw(st.integers(1, 4))
    lengths = [draw(st.integers(1, 3)) for _ in range(classes)]
    answers = [[[draw(PROBABILITIES) for _ in range(length)] for length in lengths] for _ in range(rows)]
    return answers, [draw(st.integers(0, classes - 1)) for _ in range(rows)]


def flat(answers: Answers) -> tuple[Tensor, Tensor]:
    """The log-probabilities of all tokens, and the answer that each is of."""
    each = [answer for row in answers for answer in row]
    of = [number for number, answer in enumerate(each) for _ in answer]
    return torch.tensor([p for answer in each for p in answer], dtype=torch.double).log(), torch.tensor(of)


def formula(answers: Answers, right: list[int]) -> float:
    """The loss counted token by token."""
    pairs = list(zip(answers, right, strict=True))
    said = [p for row, y in pairs for p in row[y]]
    unsaid = [p for row, y in pairs for c, answer in enumerate(row) if c != y for p in answer]
    choice = 0.0
    for row, y in pairs:
        scores = [math.exp(sum(map(math.log, answer)) / len(answer)) for answer in row]
        choice -= math.log(scores[y] / sum(scores))
    language = -sum(map(math.log, said)) / len(said)
    unlikelihood = -sum(math.log(1 - p + 0.01) for p in unsaid) / len(unsaid)
    return language + choice / len(pairs) + unlikelihood


@given(batches())
def test_the_loss_is_the_formula(batch: tuple[Answers, list[int]]) -> None:
    answers, right = batch
    tokens, of = flat(answers)
    found = tfew_loss(tokens, of, torch.tensor(right), len(answers[0]))
    assert found.item() == pytest.approx(formula(answers, right), rel=1e-9, abs=1e-12)


def test_gradients_are_those_of_the_formula() -> None:
    tokens, of = flat([[[0.2, 0.9], [0.5]], [[0.7, 0.01], [0.999]], [[0.3, 0.3], [0.4]]])
    right = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda x: tfew_loss(x, of, right, 2), tokens.requires_grad_())


def test_the_order_of_tokens_is_free() -> None:
    tokens, of = flat([[[0.2, 0.9], [0.5]], [[0.7, 0.01], [0.999]]])
    mixed = torch.tensor([4, 2, 5, 0, 3, 1])
    right = torch.tensor([1, 0])
    torch.testing.assert_close(tfew_loss(tokens[mixed], of[mixed], right, 2), tfew_loss(tokens, of, right, 2))


def test_a_longer_answer_is_not_punished() -> None:
    tokens, of = flat([[[0.5, 0.5, 0.5], [0.5]]])
    torch.testing.assert_close(means(tokens, of, 2), torch.full((2,), 0.5, dtype=torch.double).log())


@given(st.lists(st.floats(-50, 0), min_size=1))
def test_unlikelihood_is_bounded(wrong: list[float]) -> None:
    found = unlikelihood_loss(torch.tensor(wrong, dtype=torch.double)).item()
    assert -math.log(1 + EPSILON) - 1e-12 <= found <= -math.log(EPSILON) + 1e-12


def test_certainty_costs_nothing_but_what_epsilon_gives() -> None:
    sure = torch.zeros(3, dtype=torch.double)
    assert language_loss(sure).item() == 0
    assert choice_loss(torch.tensor([[0.0, -1e3]]), torch.tensor([0])).item() == 0
    assert unlikelihood_loss(torch.full((2,), -1e3)).item() == pytest.approx(-math.log(1 + EPSILON))
