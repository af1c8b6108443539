"""Recomputed tensors: what is kept for them, how often they are made, and when they are freed."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deltatune.attachment.recompute import ByAutograd, kept, recomputed
from deltatune.methods.lowrank import low_rank_update
from tests.methods.test_memory import saved


class Counted(ByAutograd):
    """exp(x) * y, which notes what it makes."""

    def __init__(self) -> None:
        super().__init__(lambda x, y: x.exp() * y)
        self.made: list[weakref.ref[Tensor]] = []

    def make(self, *sources: Tensor) -> Tensor:
        made = super().make(*sources)
        self.made.append(weakref.ref(made))
        return made


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 5).double().requires_grad_(), torch.randn(6, 5).double().requires_grad_()


def read(z: Tensor, readers: int = 3) -> Tensor:
    """Low-rank updates that all read ``z``."""
    generator = torch.Generator().manual_seed(1)
    factors = [
        [torch.randn(shape, dtype=z.dtype, generator=generator).requires_grad_() for shape in ((2, 5), (4, 2))]
        for _ in range(readers)
    ]
    return sum(low_rank_update(z[:, :4], z, A, B, 0.5).sin().sum() for A, B in factors)  # type: ignore[return-value]


def test_gradients_are_those_of_the_function() -> None:
    x, y = pair()
    expected = torch.autograd.grad(read(x.exp() * y), (x, y))
    found = torch.autograd.grad(read(recomputed(Counted(), x, y)), (x, y))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


def test_only_the_sources_are_kept() -> None:
    x, y = pair()
    large = [tensor.data_ptr() for tensor in saved(lambda: read(recomputed(Counted(), x, y))).values()]
    plain = saved(lambda: read(x.exp() * y))
    assert {x.data_ptr(), y.data_ptr()} <= set(large)
    assert len(plain) == len(large) + 1  # exp(x) takes the place of x, and the product is kept too


def test_all_readers_share_one_making_which_is_freed() -> None:
    step = Counted()
    x, y = pair()
    loss = read(recomputed(step, x, y))
    assert [made() is None for made in step.made] == [True]
    loss.backward(retain_graph=True)
    assert [made() is None for made in step.made] == [True, True]
    assert x.grad is not None
    once = x.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once, rtol=0, atol=0)
    assert len(step.made) == 3


def test_what_is_written_into_is_kept_as_it_is() -> None:
    x, y = pair()
    z = recomputed(Counted(), x, y)
    assert kept(z)[0] == (x, y)
    z.mul_(2)
    (only,), remake = kept(z)
    assert only is z
    assert remake([z]) is z


def test_a_source_that_is_written_into_is_noticed() -> None:
    x = torch.randn(6, 5).requires_grad_() * 1
    loss = read(recomputed(ByAutograd(torch.exp), x))
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_what_needs_a_gradient_gets_one(needed: tuple[bool, bool]) -> None:
    x, y = (tensor.detach().requires_grad_(need) for tensor, need in zip(pair(), needed, strict=True))
    read(recomputed(Counted(), x, y)).backward()
    assert (x.grad is not None, y.grad is not None) == needed


def test_without_gradients_it_is_the_function() -> None:
    x, y = pair()
    with torch.no_grad():
        z = recomputed(Counted(), x, y)
    assert kept(z)[0] == (z,)
    z = recomputed(Counted(), x.detach(), y.detach())
    assert kept(z)[0] == (z,)


@pytest.mark.parametrize("reentrant", [False, True])
def test_inside_a_checkpoint(reentrant: bool) -> None:
    def run(x: Tensor, y: Tensor) -> Tensor:
        return read(recomputed(Counted(), x, y))

    x, y = pair()
    expected = torch.autograd.grad(run(x, y), (x, y))
    kept_there = saved(lambda: checkpoint(run, x, y, use_reentrant=reentrant))
    assert set(kept_there) <= {x.data_ptr(), y.data_ptr()}
    checkpoint(run, x, y, use_reentrant=reentrant).backward()
    for one, other in zip((x.grad, y.grad), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_it_is_made_again_under_the_autocast_of_its_forward() -> None:
    seen: list[Any] = []

    def function(x: Tensor) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return x @ x.mT

    x = torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = recomputed(ByAutograd(function), x)
        sources, remake = kept(z)
    assert remake(sources).dtype == z.dtype == torch.bfloat16
    z.float().sum().backward()
    assert seen == [(True, torch.bfloat16)] * 3
