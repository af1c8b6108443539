"""What the layers of a model keep between forward and backward: counted on a pass of the real model, not estimated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import unwrap
from deltatune.attachment.sites import base_modules

__all__ = ["Kept", "layers_of", "measure"]


@dataclass
class Kept:
    """Bytes of the distinct tensors that one forward pass keeps, without parameters and buffers."""

    layers: dict[str, int] = field(default_factory=dict)
    """What one layer alone keeps, by layer, in the order in which they ran."""
    inputs: dict[str, int] = field(default_factory=dict)
    """What a layer was given: what stays of it when it is checkpointed."""
    rest: int = 0
    """Outside of the layers, or by several of them: embeddings, rotations, the head, the loss."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.layers.values()) + self.rest


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that ``transformers`` can checkpoint, by name."""
    return {name: module for name, module in base_modules(model) if _is_layer(module)}


def _is_layer(module: nn.Module) -> bool:
    """Whether the module carries the flag by its class, as a ``GradientCheckpointingLayer``; stacks set their own."""
    return hasattr(type(module), "gradient_checkpointing")


def measure(model: nn.Module, run: Callable[[], Any], layers: Mapping[str, nn.Module] | None = None) -> Kept:
    """Count what a forward pass keeps for its backward pass.

    Args:
        model: the model, in the mode in which it trains.
        run: runs it once; what it returns is dropped.
        layers: the modules to tell apart. Default: those of :func:`layers_of`.
    """
    model = unwrap(model)
    kept, inside = Kept(), [""]
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    savers: dict[int, set[str]] = {}
    alive: list[Tensor] = []  # so that no other tensor comes to lie where one was

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            if place not in savers:
                alive.append(tensor)
            savers.setdefault(place, set()).add(inside[-1])
        return tensor

    with ExitStack() as stack:
        for name, layer in (layers_of(model) if layers is None else layers).items():

            def enter(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                inside.append(name)
                kept.layers.setdefault(name, 0)
                given = next((each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)), None)
                kept.inputs[name] = 0 if given is None else given.nbytes

            def leave(*_: Any) -> None:
                inside.pop()

            stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(leave, always_call=True).remove)
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        run()
    for tensor in alive:
        storage = tensor.untyped_storage()
        first, *others = savers[storage.data_ptr()]
        if first and not others:
            kept.layers[first] += storage.nbytes()
        else:
            kept.rest += storage.nbytes()
    return kept
