"""Fused attention for the meta device, where torch has only one that writes the scores out.

Kernels that do not (flash attention and the like: Dao et al. 2022, https://arxiv.org/abs/2205.14135) keep queries,
keys, values, the output, and for each row the logarithm of a sum. What stands in for them here keeps the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Counter", "fused_attention"]


class Counter:
    """Counts the operations of products with queries, keys and values, forward and backward."""

    def __init__(self) -> None:
        self.operations = 0


@contextlib.contextmanager
def fused_attention(device: str = "cuda") -> Iterator[Counter]:
    """Within this context ``scaled_dot_product_attention`` on the meta device is a fused one, and is counted.

    It is another function under that name, and no torch function mode: those are off inside ``backward``, where
    checkpointed layers run again. Where kernels can not do what is asked, torch's own writes the scores out: none has
    a gradient for what is added to the scores, as T5's trained positions want, those of a CPU know no dropout, and that
    of MPS has no gradient at all.

    Args:
        device: the kind whose kernels it stands for. Default: a GPU.
    """
    own, counter = F.scaled_dot_product_attention, Counter()

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        is_beyond = (attn_mask is not None and attn_mask.requires_grad) or (dropout_p > 0 and device == "cpu")
        is_beyond |= device == "mps"
        if not query.is_meta or is_beyond:
            return own(query, key, value, attn_mask, dropout_p, is_causal, **more)
        return _attend(counter, query, key, value, attn_mask, is_causal)

    F.scaled_dot_product_attention = attend  # type: ignore[assignment]
    try:
        yield counter
    finally:
        F.scaled_dot_product_attention = own


def _attend(
    counter: Counter, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool
) -> Tensor:
    scores = query.shape[:-1].numel() * key.shape[-2]
    operations = 2 * scores * (query.shape[-1] + value.shape[-1]) // (2 if is_causal else 1)
    return _Fused.apply(counter, operations, query, key, value, mask)  # type: ignore[no-any-return, no-untyped-call]


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counter: Counter, operations: int, query: Tensor, key: Tensor, value: Tensor, mask: Any
    ) -> Tensor:
        out = _as_written(query[..., : value.shape[-1]])
        logsumexp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        if mask is not None and mask.dtype == torch.bool:  # kernels add it to the scores, and keep that form of it
            mask = query.new_empty(mask.shape)
        ctx.save_for_backward(query, key, value, mask, out, logsumexp)
        ctx.counter, ctx.operations = counter, operations
        counter.operations += operations
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        query, key, value, mask, *_ = ctx.saved_tensors
        # The scores are made again, and four products follow where forward had two.
        ctx.counter.operations += 5 * ctx.operations // 2
        grads = [_as_written(each) for each in (query, key, value)]
        wants_mask = mask is not None and ctx.needs_input_grad[5]
        return None, None, *grads, torch.empty_like(mask) if wants_mask else None


def _as_written(like: Tensor) -> Tensor:
    """A new tensor ``[batch, heads, rows, depth]`` that lies in memory as ``[batch, rows, heads, depth]``."""
    batch, heads, rows, depth = like.shape
    return like.new_empty(batch, rows, heads, depth).transpose(1, 2)
