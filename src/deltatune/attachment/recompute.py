"""Tensors that are cheaper to make again than to keep: backward finds their sources, and makes them of those.

A frozen base keeps little for its own gradients. What costs memory is what stands between its matrices: the product
inside a gated MLP, or a normed input, each kept by whatever reads it though it follows from a kept tensor in a few
elementwise steps. Everything goes through ``save_for_backward``, so checkpointing, offloading and torch's check for
tensors that were written into work as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from deltatune.attachment import autocast

__all__ = ["ByAutograd", "Remake", "Step", "kept", "recomputed"]

Remake = Callable[[Sequence[Tensor]], Tensor]
"""Makes a tensor of what was kept of it."""

ORIGIN = "_deltatune_origin"
"""Where a tensor remembers what it was made of."""


class Step(Protocol):
    """A cheap function of tensors, without randomness, with its derivative. What else it reads gets no gradient."""

    def make(self, *sources: Tensor) -> Tensor:
        """The function; a new tensor."""
        ...

    def gradients(self, grad: Tensor, *sources: Tensor) -> Sequence[Tensor]:
        """The gradient of each source, given that of the result."""
        ...


class ByAutograd:
    """A step whose derivative is left to autograd."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def make(self, *sources: Tensor) -> Tensor:
        return self.function(*sources)

    def gradients(self, grad: Tensor, *sources: Tensor) -> Sequence[Tensor]:
        leaves = [source.detach().requires_grad_() for source in sources]
        with torch.enable_grad():
            result = self.function(*leaves)
        return torch.autograd.grad(result, leaves, grad)


def recomputed(step: Step, *sources: Tensor) -> Tensor:
    """``step.make(*sources)``, of which only ``sources`` are kept for backward.

    Whatever asks :func:`kept` what to keep of the result shares one making of it there.

    Args:
        step: the function.
        *sources: tensors of any shapes.
    """
    if not (torch.is_grad_enabled() and any(source.requires_grad for source in sources)):
        return step.make(*sources)
    recipe = _Recipe(step, autocast.as_now(sources[0].device.type))
    result: Tensor = _Recomputed.apply(recipe, *sources)  # type: ignore[no-untyped-call]
    vars(result)[ORIGIN] = _Origin(recipe, sources, result._version)
    return result


def kept(x: Tensor) -> tuple[Sequence[Tensor], Remake]:
    """What to ``save_for_backward`` in place of ``x``, and the way back; ``x`` itself unless it was recomputed."""
    origin: _Origin | None = vars(x).get(ORIGIN)
    if origin is None or origin.version != x._version:  # written into since
        return (x,), _first
    return origin.sources, origin.recipe.result


def _first(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0]


class _Recipe:
    """How a tensor is made, under which autocast; during a backward pass also the tensor, made again."""

    def __init__(self, step: Step, autocast: contextlib.AbstractContextManager[Any]) -> None:
        self.step, self.autocast = step, autocast
        self.made: Tensor | None = None

    def result(self, sources: Sequence[Tensor]) -> Tensor:
        if self.made is None:
            with torch.no_grad(), self.autocast:
                self.made = self.step.make(*sources)
        return self.made


class _Origin(NamedTuple):
    recipe: _Recipe
    sources: tuple[Tensor, ...]
    version: int


class _Recomputed(torch.autograd.Function):
    """See :func:`recomputed`. Its backward comes after that of all who read the result, so it is the one that frees."""

    @staticmethod
    def forward(ctx: Any, recipe: _Recipe, *sources: Tensor) -> Tensor:
        ctx.save_for_backward(*sources)
        ctx.recipe = recipe
        return recipe.step.make(*sources)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.recipe.made = None
        with ctx.recipe.autocast:
            return None, *ctx.recipe.step.gradients(grad, *ctx.saved_tensors)
