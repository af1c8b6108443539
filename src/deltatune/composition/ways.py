r"""The ways to make one low-rank change of several: which rule acts on what.

The change of a weight that delta i makes is :math:`\Delta_i = s_i B_i A_i`, and its weight is :math:`w_i`.

- **stack**: :math:`A = [A_1; A_2; \dots]`, :math:`B = [w_1 s_1 B_1, w_2 s_2 B_2, \dots]`, so that
  :math:`BA = \sum_i w_i \Delta_i`, exactly.
- **effects**: a rule on the matrices :math:`\Delta_i`, as the papers define it, and the best rank r of what it makes.
- **factors**: a rule on the A with weights :math:`\mathrm{sgn}(w_i) \sqrt{|w_i s_i|}` and on the B with weights
  :math:`\sqrt{|w_i s_i|}`, as in Hugging Face PEFT. Alone, a delta keeps :math:`w_i \Delta_i`; together they have
  cross terms :math:`B_i A_j` that none of them was trained for.
- **averages**: :math:`A = \sum_i w_i \sqrt{s_i} A_i`, :math:`B = \sum_i w_i \sqrt{s_i} B_i` (LoraHub, Huang et al.
  2023, https://arxiv.org/abs/2307.13269, section 3.3): :math:`BA = \sum_{ij} w_i w_j \sqrt{s_i s_j} B_i A_j`. Cross
  terms too, and a weight counts twice.

Factors of different ranks are padded with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from deltatune.attachment.part import master_dtype
from deltatune.composition.rules import Choice, Rule, dare, dare_ties, linear, magnitude, ties
from deltatune.composition.truncation import Loss, distance, product_norm, truncate, truncate_product
from deltatune.errors import ConfigError

__all__ = ["WAYS", "Change", "Dense", "How", "LowRank", "Merged", "Way", "combine"]

How = Literal[
    "cat",
    "svd",
    "linear",
    "factors",
    "ties",
    "ties_svd",
    "dare",
    "dare_svd",
    "dare_ties",
    "dare_ties_svd",
    "magnitude",
    "magnitude_svd",
]


@dataclass(frozen=True)
class LowRank:
    """A change that is a product: ``scale * B A``."""

    A: Tensor
    """``[r, in]``."""
    B: Tensor
    """``[out, r]``."""
    scale: float

    def dense(self) -> Tensor:
        """``[out, in]``."""
        return self.scale * (self.B @ self.A)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.A.device


@dataclass(frozen=True)
class Dense:
    """Any other change of a matrix; made when it is asked for, since it is as large as the weight."""

    make: Callable[[], Tensor]
    device: torch.device
    """Where it is made."""

    def dense(self) -> Tensor:
        """``[out, in]``."""
        return self.make()


Change = LowRank | Dense


@dataclass(frozen=True)
class Way:
    """A rule, and what it acts on."""

    says: str
    """One line of help."""
    on: Literal["stack", "effects", "factors", "averages"]
    rule: Rule = linear
    peft: str | None = None
    """The ``combination_type`` of ``add_weighted_adapter`` that computes the same."""

    @property
    def chooses(self) -> bool:
        """Whether it keeps a share of the entries."""
        return self.rule is not linear


WAYS: dict[How, Way] = {
    "cat": Way("the exact weighted sum; its rank is the sum of the ranks", "stack", peft="cat"),
    "svd": Way("the exact weighted sum, cut to a rank", "effects", peft="svd"),
    "linear": Way("sums of the factors with roots of the weights: cross terms", "factors", peft="linear"),
    "factors": Way("sums of the factors with the weights, as in LoraHub: cross terms", "averages"),
    "ties": Way("TIES on the factors", "factors", ties, "ties"),
    "ties_svd": Way("TIES on the changes of the weights, cut to a rank", "effects", ties, "ties_svd"),
    "dare": Way("DARE on the factors", "factors", dare, "dare_linear"),
    "dare_svd": Way("DARE on the changes of the weights, cut to a rank", "effects", dare, "dare_linear_svd"),
    "dare_ties": Way("DARE, then TIES' signs, on the factors", "factors", dare_ties, "dare_ties"),
    "dare_ties_svd": Way("the same on the changes of the weights", "effects", dare_ties, "dare_ties_svd"),
    "magnitude": Way("the largest entries of the factors", "factors", magnitude, "magnitude_prune"),
    "magnitude_svd": Way("the same on the changes of the weights", "effects", magnitude, "magnitude_prune_svd"),
}
"""Each way by its name."""
assert tuple(WAYS) == get_args(How)


@dataclass(frozen=True)
class Merged:
    """One site's new change, ``B A``, and how far it is from what it stands for.

    That is what the rule makes, for a way on effects; the weighted sum of the changes, for all others.
    """

    A: Tensor
    """``[r, in]``."""
    B: Tensor
    """``[out, r]``."""
    loss: Loss


@torch.no_grad()
def combine(
    site: str,
    way: Way,
    changes: Sequence[Change],
    weights: Sequence[float],
    rank: int | None,
    choice: Choice,
    *,
    measured: bool = True,
) -> Merged:
    """One site's changes as one, in float32 at least.

    Args:
        site: its name, for errors.
        way: how.
        changes: those of the deltas that act there.
        weights: of each.
        rank: the largest for a way on effects.
        choice: the settings of the rule.
        measured: whether to measure the loss, where it does not fall off by itself. Default: true.

    Raises:
        ConfigError: a change is no product of factors, and the way needs them.
    """
    if way.on == "effects":
        assert rank is not None
        return _of_effects(way.rule, changes, weights, rank, choice)
    products = [_precise(change) for change in changes if isinstance(change, LowRank)]
    if len(products) < len(changes):
        raise ConfigError(
            f"{site}: expected a product of two factors, found a change of any rank; choose svd and give a rank"
        )
    A, B = stacked(products, weights)
    if way.on == "stack":
        left = A.any(1) & B.any(0)  # padding, and ranks that were taken away, add nothing
        A, B = A[left], B[:, left]
        return Merged(A, B, Loss(product_norm(A, B) if measured else math.nan, 0.0))
    exact = A, B
    largest = max(len(product.A) for product in products)
    As, Bs = zip(*(_padded(product, largest) for product in products), strict=True)
    if way.on == "averages":
        shares = [weight * math.sqrt(product.scale) for product, weight in zip(products, weights, strict=True)]
        A, B = linear(As, shares, choice), linear(Bs, shares, choice)
    else:
        shares = [math.sqrt(abs(weight) * product.scale) for product, weight in zip(products, weights, strict=True)]
        A = way.rule(As, [math.copysign(share, w) for share, w in zip(shares, weights, strict=True)], choice)
        B = way.rule(Bs, shares, choice)
    return Merged(A, B, Loss(product_norm(*exact), distance(A, B, *exact)) if measured else Loss(math.nan, math.nan))


def stacked(products: Sequence[LowRank], weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    """A and B of the weighted sum of products."""
    A = torch.cat([product.A for product in products])
    B = torch.cat([weight * p.scale * p.B for p, weight in zip(products, weights, strict=True)], dim=1)
    return A, B


def _of_effects(rule: Rule, changes: Sequence[Change], weights: Sequence[float], rank: int, choice: Choice) -> Merged:
    products = [_precise(change) for change in changes if isinstance(change, LowRank)]
    if rule is linear and len(products) == len(changes):
        return Merged(*truncate_product(*stacked(products, weights), rank))
    matrices = [(_precise(each) if isinstance(each, LowRank) else each).dense() for each in changes]
    matrices = [matrix.to(master_dtype(matrix.dtype)) for matrix in matrices]
    return Merged(*truncate(rule(matrices, weights, choice), rank))


def _precise(product: LowRank) -> LowRank:
    dtype = master_dtype(torch.promote_types(product.A.dtype, product.B.dtype))
    return LowRank(product.A.to(dtype), product.B.to(dtype), product.scale)


def _padded(product: LowRank, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - len(product.A)
    pad = torch.nn.functional.pad
    return pad(product.A, (0, 0, 0, missing)), pad(product.B, (0, missing))
