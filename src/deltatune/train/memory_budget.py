"""Checkpointing of as many layers as a memory budget asks for, and no more.

A checkpointed layer keeps its input alone and runs again in backward (Chen et al. 2016,
https://arxiv.org/abs/1604.06174), which costs about a third of a step if all do. What each layer keeps is counted on
short passes of the real model with its deltas, so a plan knows which layers have nothing to keep.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deltatune.attachment.bank import unwrap
from deltatune.attachment.stacks import CHECKPOINT, without_checkpoints
from deltatune.errors import ConfigError
from deltatune.io.quantised import weight_bytes
from deltatune.train.kept import Kept, layers_of, measure

__all__ = ["MemoryPlan", "Run", "budgeted", "checkpointing", "plan_memory"]

Run = Callable[[nn.Module, Tensor], Any]
"""Takes a model and token ids ``[1, tokens]`` to what is differentiated, such as a loss."""

SHORT = (16, 32)
"""How many tokens the passes have that are measured; a layer's bytes grow evenly with them."""

STATES = 3
"""How many numbers a trained one has beside it: its gradient and the two moments of Adam."""


@dataclass(frozen=True)
class MemoryPlan:
    """Which layers to checkpoint, and the memory that a training step then takes. All sizes are in bytes."""

    checkpointed: tuple[str, ...]
    """The layers' module names, in the order in which they run."""
    layers: int
    """How many layers there are."""
    weights: int
    """The base and the deltas."""
    states: int
    """Gradients and the optimiser's moments."""
    activations: int
    """The most that is kept for backward at a time, a layer that runs again included."""

    @property
    def total(self) -> int:
        """All of it; without what a single operation needs while it runs."""
        return self.weights + self.states + self.activations

    def __str__(self) -> str:
        return (
            f"{len(self.checkpointed)} of {self.layers} layers checkpointed: {_mib(self.total)} = weights "
            f"{_mib(self.weights)} + optimiser {_mib(self.states)} + activations {_mib(self.activations)}"
        )


def plan_memory(model: nn.Module, budget: int, tokens: int, *, run: Run | None = None) -> MemoryPlan:
    """Choose the fewest layers to checkpoint with which a training step fits.

    The lowest are chosen first: when they run again, those above have freed what they kept.

    Args:
        model: the model with its deltas, as it will train: its mode and what wraps it change what is kept.
        budget: bytes.
        tokens: how many tokens a batch has, padding included, in texts long enough for the memory of attention to
            grow evenly with them, as it does in every implementation but ``eager``.
        run: what a step differentiates. Default: the model's output for token ids.

    Raises:
        ConfigError: there are no layers to checkpoint, or even all of them checkpointed do not fit.
    """
    model = unwrap(model)
    kept = _kept_of(model, tokens, run or _forward)
    if not kept.layers:
        raise ConfigError(
            f"memory_budget: expected layers that can be checkpointed, found none in {type(model).__name__}; "
            "leave it out"
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fixed = {
        "layers": len(kept.layers),
        "weights": weight_bytes(model),
        "states": STATES * sum(parameter.nbytes for parameter in trained),
    }
    candidates = [name for name in kept.layers if kept.inputs[name] < kept.layers[name]]
    for count in range(len(candidates) + 1):
        chosen = tuple(candidates[:count])
        plan = MemoryPlan(chosen, **fixed, activations=_most(kept, chosen))
        if plan.total <= budget:
            return plan
    raise ConfigError(
        f"memory_budget: expected at least {_mib(plan.total)} for {tokens} tokens, found {_mib(budget)}; "
        "make batches smaller"
    )


def _forward(model: nn.Module, ids: Tensor) -> Any:
    return model(input_ids=ids)


def _kept_of(model: nn.Module, tokens: int, run: Run) -> Kept:
    """What ``tokens`` keep, on the line through two short passes."""
    device = next(model.parameters()).device
    texts = [torch.arange(length, device=device)[None] % 2 for length in SHORT]
    own = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(own), without_checkpoints(model):
        few, more = (measure(model, partial(run, model, text)) for text in texts)

    def extended(at_few: int, at_more: int) -> int:
        return at_few + (at_more - at_few) * (tokens - SHORT[0]) // (SHORT[1] - SHORT[0])

    return Kept(
        {name: extended(size, more.layers[name]) for name, size in few.layers.items()},
        {name: extended(size, more.inputs[name]) for name, size in few.inputs.items()},
        extended(few.rest, more.rest),
    )


def _most(kept: Kept, checkpointed: tuple[str, ...]) -> int:
    """The most that is kept at a time: at the end of forward, or while a layer runs again."""
    inputs = [kept.inputs[name] for name in checkpointed]
    others = {name: size for name, size in kept.layers.items() if name not in checkpointed}
    moments = [sum(inputs) + sum(others.values()) + kept.rest]
    ran: set[str] = set()
    for name in kept.layers:
        ran.add(name)
        if name in checkpointed:
            below = sum(kept.inputs[each] if each in checkpointed else others[each] for each in ran)
            moments.append(below + kept.layers[name])
    return max(moments)


@contextlib.contextmanager
def checkpointing(model: nn.Module, layers: Collection[str]) -> Iterator[None]:
    """Within this context the layers of these names are checkpointed, and no other.

    The flag and the function are set on each layer: the call of ``transformers`` for the whole model also makes the
    embeddings' output require gradients, so that layers below all deltas would keep activations.
    """
    former: dict[nn.Module, dict[str, Any]] = {}
    names = ("gradient_checkpointing", CHECKPOINT)
    for name, layer in layers_of(unwrap(model)).items():
        former[layer] = {key: vars(layer)[key] for key in names if key in vars(layer)}
        values = (name in layers, partial(checkpoint, use_reentrant=False))
        vars(layer).update(zip(names, values, strict=True))
    try:
        yield
    finally:
        for layer, values_before in former.items():
            for key in names:
                vars(layer).pop(key, None)
            vars(layer).update(values_before)


@contextlib.contextmanager
def budgeted(model: nn.Module, budget: int, tokens: int, *, run: Run | None = None) -> Iterator[MemoryPlan]:
    """Within this context as many layers are checkpointed as :func:`plan_memory` says, with the same arguments.

    Raises:
        ConfigError: as there.
    """
    plan = plan_memory(model, budget, tokens, run=run)
    with checkpointing(model, plan.checkpointed):
        yield plan


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
