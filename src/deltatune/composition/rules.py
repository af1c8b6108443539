r"""What becomes of several tensors of one shape: the rules by which task vectors are merged.

With tensors :math:`\tau_t`, weights :math:`w_t` and density d, entry by entry:

- :func:`linear`: :math:`\sum_t w_t \tau_t`. Task arithmetic (Ilharco et al. 2022, https://arxiv.org/abs/2212.04089,
  section 2): addition, negation (a negative weight), analogy (c + b − a).
- :func:`magnitude`: :math:`\sum_t w_t\, \mathrm{trim}_d(\tau_t)`; trim keeps the share d of largest magnitude.
- :func:`ties`: TIES-Merging (Yadav et al. 2023, https://arxiv.org/abs/2306.01708, section 4.2, algorithm 1):
  :math:`\hat\tau_t = \mathrm{trim}_d(\tau_t)`, elect :math:`\gamma = \mathrm{sgn} \sum_t \hat\tau_t`, and take
  :math:`\frac{1}{|T|} \sum_{t \in T} w_t \hat\tau_t` over :math:`T = \{t : \mathrm{sgn}\, \hat\tau_t = \gamma\}`.
- :func:`dare`: DARE (Yu et al. 2023, https://arxiv.org/abs/2311.03099, section 3.2):
  :math:`\sum_t w_t\, m_t \odot \tau_t / d` with :math:`m_t \sim \mathrm{Bernoulli}(d)`, whose mean is the plain sum.
  The paper's drop rate is p = 1 − d.
- :func:`dare_ties`: DARE's drop in the place of TIES' trim.

The papers trim over all tensors of a task together; here, as in Hugging Face PEFT, each tensor is trimmed by itself, so
that one at a time is held in memory. A negative weight turns the sign of its tensor before signs are elected; PEFT
turns it after, which lets a task that is subtracted vote for what it is to remove.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Choice", "Rule", "Sign", "dare", "dare_ties", "drop", "linear", "magnitude", "ties", "trim"]

Sign = Literal["total", "frequency"]


@dataclass(frozen=True)
class Choice:
    """What a rule needs to know to choose entries."""

    density: float = 1.0
    """d: the share of entries to keep."""
    sign: Sign = "total"
    """How TIES elects signs: by the sum of the values, or by the number of tensors with each sign."""
    generator: torch.Generator | None = None
    """Draws what DARE drops. Default: torch's global stream."""


Rule = Callable[[Sequence[Tensor], Sequence[float], Choice], Tensor]


def linear(tensors: Sequence[Tensor], weights: Sequence[float], choice: Choice) -> Tensor:
    """The weighted sum."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight)
    return total


def magnitude(tensors: Sequence[Tensor], weights: Sequence[float], choice: Choice) -> Tensor:
    """The weighted sum of the largest entries of each."""
    return linear([trim(tensor, choice.density) for tensor in tensors], weights, choice)


def ties(tensors: Sequence[Tensor], weights: Sequence[float], choice: Choice) -> Tensor:
    """Trim, elect signs, and average what agrees with them."""
    return _agreed([trim(tensor, choice.density) for tensor in tensors], weights, choice)


def dare(tensors: Sequence[Tensor], weights: Sequence[float], choice: Choice) -> Tensor:
    """The weighted sum of random entries of each, enlarged to make up for the others."""
    return linear([drop(tensor, choice.density, choice.generator) for tensor in tensors], weights, choice)


def dare_ties(tensors: Sequence[Tensor], weights: Sequence[float], choice: Choice) -> Tensor:
    """Drop at random, elect signs, and average what agrees with them."""
    return _agreed([drop(tensor, choice.density, choice.generator) for tensor in tensors], weights, choice)


def trim(tensor: Tensor, density: float) -> Tensor:
    """``tensor`` with all but the share ``density`` of largest magnitude set to zero."""
    kept = int(density * tensor.numel())
    if kept == tensor.numel():
        return tensor
    places = tensor.abs().flatten().topk(kept).indices
    flat = tensor.flatten()
    return torch.zeros_like(flat).scatter_(0, places, flat[places]).view_as(tensor)


def drop(tensor: Tensor, density: float, generator: torch.Generator | None) -> Tensor:
    """``tensor`` with each entry kept with probability ``density`` and divided by it, else set to zero."""
    if density == 1:
        return tensor
    return tensor * torch.bernoulli(torch.full_like(tensor, density), generator=generator) / density


def _agreed(tensors: Sequence[Tensor], weights: Sequence[float], choice: Choice) -> Tensor:
    """For each entry, the mean of the weighted values whose sign is the elected one."""
    stack = torch.stack([-tensor if weight < 0 else tensor for tensor, weight in zip(tensors, weights, strict=True)])
    signs = stack.sign()
    votes = (stack if choice.sign == "total" else signs).sum(0)
    agree = signs == torch.where(votes >= 0, 1.0, -1.0).to(stack)
    sizes = torch.tensor([abs(weight) for weight in weights], dtype=stack.dtype, device=stack.device)
    total = (stack * agree * sizes.view(-1, *[1] * (stack.dim() - 1))).sum(0)
    return total / agree.sum(0).clamp_min(1)
