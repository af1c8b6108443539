r"""LoraHub: weights of deltas found on a few examples, without gradients (Huang et al. 2023,
https://arxiv.org/abs/2307.13269, sections 3.3 and 3.4).

.. math:: \hat w = \arg\min_w\; L(w) + \frac{\alpha}{N} \sum_{i=1}^{N} |w_i|, \qquad |w_i| \le 1.5

with L the loss of the base with the composed delta on the examples and α = 0.05. The paper composes factors,
:math:`A = \sum_i w_i A_i` and :math:`B = \sum_i w_i B_i` (``how="factors"``), which has cross terms; ``how="cat"``
weighs what the deltas do. The search starts at w = 0, the base alone. Nevergrad's ``NGOpt`` proposes the weights.

The model is made once: the composed delta stays attached, and its tensors are written anew for each proposal.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from torch import Tensor, nn

from deltatune.attachment.bank import bank_of, bare, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import add, check_name, detach
from deltatune.composition.building import build, write_factors
from deltatune.composition.compose import Recipe
from deltatune.composition.source import Source, read
from deltatune.composition.ways import How
from deltatune.errors import ConfigError, DeltaError
from deltatune.methods.base import check, is_int
from deltatune.train.encode import Kind

__all__ = ["SEARCHED", "Found", "lorahub"]

SEARCHED = ("factors", "cat", "linear")
"""The ways of composing whose weights are searched for."""


@dataclass(frozen=True)
class Found:
    """What :func:`lorahub` found."""

    delta: Delta
    """The composed delta, attached and frozen."""
    weights: dict[str, float]
    loss: float
    """Of the examples, with these weights; without the penalty."""
    history: tuple[tuple[tuple[float, ...], float], ...] = field(repr=False)
    """Every weights that were tried, and their loss with the penalty."""


def lorahub(
    model: nn.Module,
    names: Iterable[str],
    examples: Iterable[Mapping[str, Tensor]],
    *,
    how: How = "factors",
    name: str = "lorahub",
    evaluations: int = 40,
    bound: float = 1.5,
    penalty: float = 0.05,
    kind: Kind | None = None,
    seed: int = 0,
) -> Found:
    """Find weights for LoRAs on a few examples of a new task and attach what they make, the LoRAs turned off.

    Args:
        model: the base, with the deltas attached.
        names: which.
        examples: batches of the model's keyword arguments with ``labels``, as its data collator makes them. The paper
            takes 5 examples. They are read at each evaluation.
        how: ``"factors"`` (default), as in the paper, ``"cat"`` or ``"linear"``.
        name: how to call the result. Default: ``"lorahub"``.
        evaluations: how many weights are tried. Default: 40.
        bound: the largest |w|. Default: 1.5.
        penalty: α, on the mean |w|. Default: 0.05.
        kind: of the loss: ``"causal"``, ``"seq2seq"`` or ``"classification"``. Default: as the model and labels are.
        seed: of the search, where its optimiser draws. Default: 0.

    Raises:
        ConfigError: a setting is out of range, there is nothing to weigh or no example, or a delta is no LoRA.
        DeltaError: Nevergrad is not installed.
        AttachError: a name is unknown or taken.
    """
    model, chosen, batches = unwrap(model), list(names), list(examples)
    check(how in SEARCHED, "lorahub: how", f"one of {SEARCHED}", how)
    check(bool(chosen), "lorahub: names", "some deltas", chosen)
    check(bool(batches), "lorahub: examples", "at least one batch", batches)
    whole = is_int(evaluations) and evaluations >= 1
    check(whole, "lorahub: evaluations", "a whole number from 1", evaluations)
    check(bound > 0 and math.isfinite(bound), "lorahub: bound", "a number above 0", bound)
    check(penalty >= 0 and math.isfinite(penalty), "lorahub: penalty", "a number from 0", penalty)
    check(kind in (None, *get_args(Kind)), "lorahub: kind", f"one of {get_args(Kind)}", kind)
    optimizer = _optimizer(len(chosen), evaluations, bound, seed)
    check_name(model, name)
    deltas = [bank_of(model)[each] for each in chosen]
    recipe = Recipe(how)
    with bare(model):
        sources = [_factors_alone(read(delta)) for delta in deltas]
        made = build(model, name, recipe.mix(sources, [1.0] * len(sources))).freeze()
    enabled = [delta.enabled for delta in deltas]
    for delta in deltas:
        delta.disable()
    try:
        add(model, made)
        search = _Search(made, sources, recipe, batches, kind or _kind(model, batches[0]), penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimisers that Nevergrad chooses among talk of their own settings
            optimizer.minimize(search)
        best, _ = min(search.history, key=lambda each: each[1])
        loss = search.loss(best)
    except BaseException:
        if name in bank_of(model).deltas:
            detach(model, name)
        for delta, was in zip(deltas, enabled, strict=True):
            if was:
                delta.enable()
        raise
    return Found(made, dict(zip(chosen, best, strict=True)), loss, tuple(search.history))


class _Search:
    """The objective: the loss of the examples at some weights, with the penalty."""

    def __init__(
        self,
        delta: Delta,
        sources: Sequence[Source],
        recipe: Recipe,
        batches: Sequence[Mapping[str, Tensor]],
        kind: Kind,
        penalty: float,
    ) -> None:
        self.delta, self.sources, self.recipe = delta, sources, recipe
        self.batches, self.kind, self.penalty = batches, kind, penalty
        self.history: list[tuple[tuple[float, ...], float]] = []

    def __call__(self, proposal: Any) -> float:
        weights = tuple(float(weight) for weight in proposal)
        value = self.loss(weights) + self.penalty * sum(map(abs, weights)) / len(weights)
        value = value if math.isfinite(value) else math.inf
        self.history.append((weights, value))
        return value

    def loss(self, weights: Sequence[float]) -> float:
        """Of the examples; the delta is left with these weights."""
        from deltatune.train.evaluate import score

        write_factors(self.delta, self.recipe.mix(self.sources, weights, measured=False))
        labels = [str(number) for number in range(getattr(self.delta.model.config, "num_labels", 0))]
        return score(self.delta.model, self.batches, self.kind, labels)["loss"]


def _factors_alone(source: Source) -> Source:
    if source.rank is None or source.rest:
        found = f"a change of {source.rest[0]}" if source.rest else "matrices of any rank"
        raise ConfigError(f"lorahub: {source.name}: expected a LoRA of matrices alone, found {found}; leave it out")
    return source


def _kind(model: nn.Module, batch: Mapping[str, Tensor]) -> Kind:
    if "labels" not in batch:
        raise ConfigError(f"lorahub: examples: expected labels, found {', '.join(batch)}; add them")
    if batch["labels"].dim() == 1:
        return "classification"
    return "seq2seq" if getattr(model.config, "is_encoder_decoder", False) else "causal"


def _optimizer(size: int, evaluations: int, bound: float, seed: int) -> Any:
    try:
        import nevergrad
    except ImportError:
        raise DeltaError("lorahub: expected Nevergrad, found it missing; pip install 'deltatune[compose]'") from None
    import numpy

    def made(kind: Any) -> Any:
        weights = nevergrad.p.Array(init=[0.0] * size, lower=[-bound] * size, upper=[bound] * size)
        weights.random_state = numpy.random.RandomState(seed)
        return kind(parametrization=weights, budget=evaluations)

    optimizer = made(nevergrad.optimizers.NGOpt)
    # For long searches of few weights NGOpt models the loss, which fails with numpy 2.4; for all others Cobyla.
    return made(nevergrad.optimizers.Cobyla) if "MetaModel" in optimizer.optim.name else optimizer
