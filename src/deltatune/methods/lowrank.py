"""The arithmetic that the low-rank methods share: ``out + s * B A dropout(x)`` as one differentiable step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.attachment.recompute import kept

__all__ = ["low_rank_update"]


def low_rank_update(out: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float, dropout: float = 0.0) -> Tensor:
    """``out + scale * B A dropout(x)``.

    Keeps for the backward pass only ``x`` as it was given, which all the sites that read it share, or what it is made
    of (see :mod:`deltatune.attachment.recompute`), and the rank-r product; dropout masks are drawn again from a seed.
    Works in the precision of ``out``: the small factors are cast to it, the activations are not cast up.

    Args:
        out: ``[..., out]``, what is added to.
        x: ``[..., in]``.
        A: ``[r, in]``.
        B: ``[out, r]``.
        scale: the factor on the product.
        dropout: the probability with which entries of ``x`` are dropped. Default: 0.
    """
    if torch.compiler.is_compiling():  # the compiler fuses and recomputes as it sees fit
        x = F.dropout(x, dropout).to(out.dtype)
        return torch.add(out, F.linear(F.linear(x, A.to(out.dtype)), B.to(out.dtype)), alpha=scale)
    return LowRankUpdate.apply(out, x, A, B, scale, dropout)  # type: ignore[no-any-return, no-untyped-call]


class LowRankUpdate(torch.autograd.Function):
    """See :func:`low_rank_update`. With ``h = A x``: ``y = out + s B h``, so for a gradient ``g`` of ``y``

    ``dB = s gᵀ h``, ``dh = s g B``, ``dA = dhᵀ x``, ``dx = dh A`` and ``dout = g``.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float, dropout: float) -> Tensor:
        seed = _draw_seed() if dropout else None
        a, b = A.to(out.dtype), B.to(out.dtype)
        h = _rows(_dropped(x, dropout, seed), out.dtype) @ a.t()
        sources, ctx.remake = kept(x)
        ctx.save_for_backward(h, A, B, *sources)
        ctx.scale, ctx.dropout, ctx.seed, ctx.shape, ctx.dtype = scale, dropout, seed, x.shape, x.dtype
        return torch.addmm(out.reshape(-1, out.shape[-1]), h, b.t(), alpha=scale).view(out.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        h, A, B, *sources = ctx.saved_tensors
        _, needs_x, needs_A, needs_B, *_ = ctx.needs_input_grad
        g = _rows(grad, grad.dtype)
        dh = (g @ B.to(g.dtype)).mul_(ctx.scale)
        dx = dA = dB = None
        if needs_B:
            dB = torch.mm(g.t(), h).mul_(ctx.scale).to(B.dtype)
        if needs_A:
            x = _dropped(ctx.remake(sources), ctx.dropout, ctx.seed)
            dA = torch.mm(dh.t(), _rows(x, g.dtype)).to(A.dtype)
        if needs_x:
            dx = _dropped((dh @ A.to(g.dtype)).view(ctx.shape), ctx.dropout, ctx.seed).to(ctx.dtype)
        return grad, dx, dA, dB, None, None


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` as a matrix ``[tokens, features]`` of ``dtype``; a view where it can be."""
    return x.reshape(-1, x.shape[-1]).to(dtype)


def _draw_seed() -> int:
    """A seed from torch's global stream, so ``torch.manual_seed`` and a checkpoint's recomputation govern the mask."""
    return int(torch.randint(2**62, ()).item())


def _dropped(x: Tensor, probability: float, seed: int | None) -> Tensor:
    """``x`` with entries dropped and the rest scaled by 1 / (1 - p); the same for the same seed and shape."""
    if seed is None:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    keep = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - probability, generator=generator)
    return (x * keep).mul_(1 / (1 - probability))
