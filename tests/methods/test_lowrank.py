"""The low-rank update: its derivatives, and dropout that drops the same entries in both directions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deltatune.methods.lowrank import low_rank_update

IN, OUT, RANK, SCALE = 5, 4, 3, 0.7


def tensors(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = (*shape, OUT), (*shape, IN), (RANK, IN), (OUT, RANK)
    made = [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]
    return made[0], made[1], made[2], made[3]


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 2), (1, 0)])
def test_it_is_the_equation(shape: tuple[int, ...]) -> None:
    out, x, A, B = tensors(*shape)
    torch.testing.assert_close(low_rank_update(out, x, A, B, SCALE), out + SCALE * x @ A.T @ B.T)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_its_derivatives_are_those_of_what_it_computes(shape: tuple[int, ...], dropout: float) -> None:
    # With one seed the mask is a constant, so differences between outputs see the forward mask alone: they agree with
    # the derivatives only if backward drops the same entries.
    def update(*inputs: Tensor) -> Tensor:
        torch.manual_seed(0)
        return low_rank_update(*inputs, SCALE, dropout)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(update, tensors(*shape))


@pytest.mark.parametrize("needed", range(4))
def test_each_derivative_can_be_asked_for_alone(needed: int) -> None:
    inputs = tensors(6)
    everything = torch.autograd.grad(low_rank_update(*inputs, SCALE).sin().sum(), inputs)
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(i == needed)
    (found,) = torch.autograd.grad(low_rank_update(*inputs, SCALE).sin().sum(), [inputs[needed]])
    torch.testing.assert_close(found, everything[needed])


def test_an_input_that_does_not_lie_in_one_piece_is_the_same() -> None:
    out, x, A, B = (tensor.detach() for tensor in tensors(6, 2))
    for found, expected in (
        (low_rank_update(out.transpose(0, 1), x.transpose(0, 1), A, B, SCALE).transpose(0, 1), (out, x)),
        (low_rank_update(out.expand(6, 2, OUT), x[:1].expand(6, 2, IN), A, B, SCALE), (out, x[:1].expand(6, 2, IN))),
    ):
        torch.testing.assert_close(found, low_rank_update(*(t.contiguous() for t in expected), A, B, SCALE))


def test_what_it_is_added_to_is_not_changed() -> None:
    out, x, A, B = tensors(6)
    before = out.detach().clone()
    low_rank_update(out, x, A, B, SCALE)
    assert torch.equal(out, before)


@pytest.mark.parametrize(("activations", "kept"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_it_works_in_the_precision_of_the_output(activations: torch.dtype, kept: torch.dtype) -> None:
    out, x, A, B = (tensor.detach() for tensor in tensors(64, dtype=torch.float32))
    exact = low_rank_update(out, x, A, B, SCALE)
    inputs = out.to(activations), x.to(kept).requires_grad_(), A.requires_grad_(), B.requires_grad_()
    found = low_rank_update(*inputs, SCALE)
    assert found.dtype == activations
    torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0.05)
    found.float().pow(2).sum().backward()
    assert [tensor.grad.dtype for tensor in inputs[1:]] == [kept, torch.float32, torch.float32]


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    # With A and B the identity the output is the dropped input itself.
    n, p = 200, 0.3
    x, eye = torch.full((n, n), 2.0), torch.eye(n)
    found = low_rank_update(torch.zeros(n, n), x, eye, eye, 1.0, p)
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 2 / (1 - p)]))
    deviation = math.sqrt(p * (1 - p)) / n
    assert abs((found == 0).double().mean() - p) < 5 * deviation
    # No row and no column is dropped more often than chance has it.
    for dimension in (0, 1):
        assert ((found == 0).double().mean(dimension) - p).abs().max() < 5 * deviation * math.sqrt(n)


def test_two_calls_drop_other_entries_and_the_seed_decides_which() -> None:
    eye = torch.eye(50)
    x, zeros = torch.ones(50, 50), torch.zeros(50, 50)

    def masks() -> list[Tensor]:
        torch.manual_seed(3)
        return [low_rank_update(zeros, x, eye, eye, 1.0, 0.5) == 0 for _ in range(2)]

    first, second = masks()
    assert 0.4 < (first == second).double().mean() < 0.6
    assert all(torch.equal(one, other) for one, other in zip(masks(), [first, second], strict=True))


def test_without_dropout_the_random_stream_is_left_alone() -> None:
    inputs = tensors(6)
    state = torch.get_rng_state()
    low_rank_update(*inputs, SCALE)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_can_not_be_differentiated_twice_in_silence() -> None:
    inputs: Any = tensors(6)
    gradient = torch.autograd.grad(low_rank_update(*inputs, SCALE).pow(2).sum(), inputs[1], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
