"""What one way of training takes: counted on a rehearsal of its step."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from deltatune.attachment.bank import bare, find_bank
from deltatune.attachment.lifecycle import attach, detach
from deltatune.attachment.summary import base_size
from deltatune.errors import ConfigError
from deltatune.io.files import saved_tensors
from deltatune.io.quantised import weight_bytes
from deltatune.methods.base import Method
from deltatune.methods.written import FULL
from deltatune.planning.data_free import AnsweringYes
from deltatune.planning.optimizers import OPTIMIZERS
from deltatune.planning.rehearsal import Batch, rehearse
from deltatune.planning.shapes import Shape
from deltatune.planning.timeline import Block

__all__ = ["Cost", "Moment", "cost_of", "cost_of_model"]


@dataclass(frozen=True)
class Moment:
    """What there is at one time beside the weights. In bytes."""

    gradients: int
    optimizer: int
    """The optimiser's state."""
    activations: int
    """Kept by the forward pass."""
    temporary: int
    """What single operations need while they run."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.gradients + self.optimizer + self.activations + self.temporary


@dataclass(frozen=True)
class Cost:
    """What a method takes to train. Sizes are in bytes."""

    method: str
    settings: dict[str, Any]
    """The method's, where they differ from its defaults."""
    trainable: int
    """How many numbers are trained."""
    share: float
    """Of the base's."""
    file: int
    """What is saved: the delta's tensors, or for full fine-tuning all weights."""
    operations: int
    """Floating-point operations of a step, forward and backward: matrix products and attention."""
    weights: int
    """Of the base and what is attached to it."""
    gradients: int
    """When all are there."""
    optimizer: int
    """The optimiser's state."""
    activations: int
    """Kept for the backward pass when that begins."""
    moments: dict[str, Moment]
    """When a step may take the most: in ``backward`` or on the way there, in the ``optimizer``'s step, or, before the
    first step, in the ``preparation`` of a method that looks at the data."""
    blocks: tuple[Block, ...] = field(repr=False, compare=False)
    """The tensors beside weights and optimiser in the first of these moments, the largest first."""

    @property
    def moment(self) -> str:
        """When it is the most."""
        return max(self.moments, key=lambda name: self.moments[name].total)

    @property
    def temporary(self) -> int:
        """What is there for a short time when it is the most."""
        return self.moments[self.moment].temporary

    @property
    def total(self) -> int:
        """The most that is there at a time. Less than the sum, where not everything is there at once."""
        return self.weights + self.moments[self.moment].total


def cost_of(shape: Shape, method: Method | None, batch: Batch, *, optimizer: str, **how: Any) -> Cost:
    """What training on ``batch`` takes.

    Args:
        shape: the base; left as it was.
        method: what to attach; ``None``: train the base whole.
        batch: what a step is made on.
        optimizer: a key of ``OPTIMIZERS``.
        **how: the step is made; see :func:`cost_of_model`.

    Raises:
        DeltaError: the method can not be attached to this base.
    """
    with _trained(shape, method):
        found = cost_of_model(shape.model, batch, optimizer=optimizer, **how)
    if method is None:
        return found
    settings = {name: value for name, value in method.to_config().items() if name != "method"}
    return dataclasses.replace(found, method=method.key, settings=settings)


def cost_of_model(
    model: nn.Module,
    batch: Batch,
    *,
    optimizer: str,
    device: str = "cuda",
    accumulation: int = 1,
    savings: bool = True,
    checkpoints: int | None = 0,
) -> Cost:
    """What it takes to train what requires gradients in a model on the meta device.

    Args:
        model: with whatever is attached; left as it was.
        batch: what a step is made on.
        optimizer: a key of ``OPTIMIZERS``.
        device: as for :func:`deltatune.planning.rehearsal.rehearse`.
        accumulation: how many such batches make a step; from two on gradients are there all the time. Default: 1.
        savings: as there.
        checkpoints: as there.
    """
    kind, weights = OPTIMIZERS[optimizer], weight_bytes(model)
    found = rehearse(
        model, batch, device=device, savings=savings, checkpoints=checkpoints, accumulates=accumulation > 1
    )
    # Not earlier: some methods choose what to train in their preparation.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    state = sum(map(kind.state, trained))
    gradients = sum(parameter.nbytes for parameter in trained)
    return Cost(
        method=FULL,
        settings={},
        trainable=count,
        share=count / base_size(model),
        file=_file_bytes(model),
        operations=found.operations * accumulation,
        weights=weights,
        gradients=gradients,
        optimizer=state,
        activations=found.kept,
        moments={
            "backward": Moment(found.gradients, state, found.activations, found.temporary),
            "optimizer": Moment(gradients, state, 0, kind.scratch(trained, device)),
            "preparation": Moment(0, 0, 0, found.preparation),
        },
        blocks=found.blocks,
    )


@contextlib.contextmanager
def _trained(shape: Shape, method: Method | None) -> Iterator[None]:
    """Within this context the model has a delta that is trained, or is trained whole."""
    model = shape.model
    if method is not None:
        attach(model, method)
        try:
            yield
        finally:
            detach(model)
        return
    if shape.quant is not None:
        raise ConfigError(
            f"full: expected a base that is not quantised, found {shape.quant}; choose a method, or no quant"
        )
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _file_bytes(model: nn.Module) -> int:
    """The tensors of all deltas, or if there is none the weights."""
    bank = find_bank(model)
    if bank is None:
        return weight_bytes(model)
    with bare(model), AnsweringYes():
        return sum(tensor.nbytes for delta in bank for tensor in saved_tensors(delta).values())
