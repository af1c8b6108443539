r"""The loss of the tokens that are learned, without the logits of the others and without keeping any.

.. math:: L = \frac{1}{n} \sum_i w_i \left( (1 - \epsilon)\, \mathrm{CE}(z_i, y_i)
    + \epsilon\, \overline{\mathrm{CE}}(z_i) + \zeta \log^2 \sum_v e^{z_{iv}} \right)

with the logits z of position i, its target y and weight w, label smoothing ε (the mean cross entropy over the
vocabulary; Szegedy et al. 2016, https://arxiv.org/abs/1512.00567) and the z-loss ζ (Chowdhery et al. 2022,
https://arxiv.org/abs/2204.02311, section 5). A vocabulary is wide: the logits of a batch are often its largest tensor,
and cross entropy needs several of their kind. So they are made a few rows at a time, and their gradient right with
them; what stays is the gradient of what went into the head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["target_scores", "token_losses", "total_loss"]

Head = Callable[[Tensor], Tensor]

CHUNK = 64 * 2**20
"""Bytes of float32 logits that are made at a time."""


def total_loss(
    head: Head,
    hidden: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    trained: Sequence[Tensor] = (),
    vocabulary: int,
    at_once: bool = False,
) -> Tensor:
    """The weighted sum of the losses, a scalar; to be divided by what it is an average of.

    Args:
        head: logits ``[m, vocabulary]`` of hidden states ``[m, d]``.
        hidden: ``[n, d]``.
        labels: the target of each, ``[n]``.
        weights: of each, ``[n]``. Default: 1.
        smoothing: ε. Default: 0.
        z_loss: ζ. Default: 0.
        trained: the tensors that are trained; those of them that the head uses get their gradient too.
        vocabulary: how wide the logits are, from which the rows made at a time follow.
        at_once: make all logits together and keep them for backward. Default: false.
    """

    def losses(states: Tensor, rows: slice) -> Tensor:
        logits = _precise(head(states))
        each = F.cross_entropy(logits, labels[rows], reduction="none", label_smoothing=smoothing)
        if z_loss:
            each = each + z_loss * logits.logsumexp(dim=-1).square()
        return each.sum() if weights is None else (each * weights[rows]).sum()

    rows = max(1, CHUNK // (4 * vocabulary))
    if not torch.is_grad_enabled():
        return torch.stack([losses(hidden[part], part) for part in _parts(len(hidden), rows)]).sum()
    if at_once:
        return losses(hidden, slice(None))
    return _Chunked.apply(losses, rows, hidden, *trained)  # type: ignore[no-any-return, no-untyped-call]


class _Chunked(torch.autograd.Function):
    """The sum of a function over the rows of a matrix, its gradient made with it, a few rows at a time.

    ``losses(states, rows)`` is the sum over the rows given.
    """

    @staticmethod
    def forward(
        ctx: Any, losses: Callable[[Tensor, slice], Tensor], rows: int, hidden: Tensor, *trained: Tensor
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=_precise(hidden).dtype)
        into_head = torch.zeros_like(hidden) if ctx.needs_input_grad[2] else None
        into_trained: list[Tensor | None] = [None] * len(trained)
        for part in _parts(len(hidden), rows):
            with torch.enable_grad():
                states = hidden[part].detach().requires_grad_(into_head is not None)
                loss = losses(states, part)
            total += loss.detach()
            if not loss.requires_grad:
                continue
            inputs = [*([] if into_head is None else [states]), *trained]
            made = list(torch.autograd.grad(loss, inputs, allow_unused=True))
            if into_head is not None:
                into_head[part] = made.pop(0)
            into_trained = [
                new if old is None else old if new is None else old.add_(new)
                for old, new in zip(into_trained, made, strict=True)
            ]
        ctx.save_for_backward(into_head, *into_trained)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if made is None else made * grad for made in ctx.saved_tensors)


def token_losses(head: Head, hidden: Tensor, labels: Tensor, *, vocabulary: int) -> Tensor:
    """The cross entropy of each target, ``[n]``, in float32; without gradients."""
    rows = max(1, CHUNK // (4 * vocabulary))
    with torch.no_grad():
        each = [
            F.cross_entropy(_precise(head(hidden[part])), labels[part], reduction="none")
            for part in _parts(len(hidden), rows)
        ]
    return torch.cat(each) if each else hidden.new_zeros(0, dtype=torch.float32)


@torch.no_grad()
def target_scores(
    head: Head, hidden: Tensor, predicting: Tensor, labels: Tensor, *, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """How well targets are predicted, the logits of a row made once however many targets it predicts.

    Args:
        head: logits ``[m, vocabulary]`` of hidden states ``[m, d]``.
        hidden: of every row, ``[rows, d]``.
        predicting: the row that predicts each target, ``[n]``.
        labels: the targets, ``[n]``.
        vocabulary: how wide the logits are, from which the rows made at a time follow.

    Returns:
        The cross entropy of each target, ``[n]``, in float32 or better; and whether nothing else is likelier, ``[n]``.
    """
    rows, of = predicting.unique(return_inverse=True)
    losses = torch.zeros(len(labels), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    hits = torch.zeros(len(labels), dtype=torch.bool, device=hidden.device)
    for part in _parts(len(rows), max(1, CHUNK // (4 * vocabulary))):
        logits = _precise(head(hidden.index_select(0, rows[part])))
        chosen = ((of >= part.start) & (of < part.stop)).nonzero()[:, 0]
        at, targets = of[chosen] - part.start, labels[chosen]
        losses[chosen] = logits.logsumexp(dim=-1)[at] - logits[at, targets]
        hits[chosen] = logits.argmax(dim=-1)[at] == targets
    return losses, hits


def _parts(length: int, rows: int) -> list[slice]:
    return [slice(start, min(start + rows, length)) for start in range(0, length, rows)]


def _precise(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
