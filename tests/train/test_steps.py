"""The elementwise steps by hand against what transformers and autograd make of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from deltatune.train.steps import RMSNorm, SwiGLU

TOKENS, WIDTH = 7, 48


def tensors(count: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(2, TOKENS, WIDTH).to(dtype).requires_grad_() for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_swiglu_has_autograds_bits(dtype: torch.dtype) -> None:
    gate, up, grad = tensors(3, dtype)
    expected = F.silu(gate) * up
    gradients = torch.autograd.grad(expected, (gate, up), grad)
    with torch.no_grad():
        assert torch.equal(SwiGLU().make(gate, up), expected)
        found = SwiGLU().gradients(grad, gate, up)
    assert all(torch.equal(one, other) for one, other in zip(found, gradients, strict=True))


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_rms_norm_is_that_of_llama(dtype: torch.dtype, share: float) -> None:
    norm = LlamaRMSNorm(WIDTH, eps=1e-3).to(dtype).requires_grad_(False)
    norm.weight.copy_(torch.randn(WIDTH))
    x, grad = tensors(2, dtype)
    step = RMSNorm(norm.weight, norm.variance_epsilon)
    (expected,) = torch.autograd.grad(norm(x), x, grad)
    with torch.no_grad():
        assert torch.equal(step.make(x), norm(x))
        (found,) = step.gradients(grad, x)
    assert found.dtype == dtype
    assert (found - expected).norm() <= share * expected.norm()


def test_the_steps_do_not_write_into_what_they_are_given() -> None:
    given = tensors(3, torch.float32)
    before = [tensor.detach().clone() for tensor in given]
    with torch.no_grad():
        for step, sources in ((SwiGLU(), given[:2]), (RMSNorm(torch.ones(WIDTH), 1e-6), given[:1])):
            step.make(*sources)
            step.gradients(given[2], *sources)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))
