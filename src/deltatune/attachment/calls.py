"""A call of a whole stack of layers, as a part that changes it sees it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Part
from deltatune.attachment.routing import Routing

if TYPE_CHECKING:
    from deltatune.attachment.bank import Bank

__all__ = ["Call", "Stamp", "named_inputs"]


@dataclass
class Call:
    """One call of a stack: its inputs by name, to be changed in place, and who takes part."""

    module: nn.Module
    inputs: dict[str, Any]
    bank: Bank
    routing: Routing
    parts: dict[str, Part] = field(default_factory=dict)
    """The parts that change this call, by the names of their deltas."""
    name: str = ""
    """The delta whose turn it is."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a part leaves for its :meth:`Part.answer`, by the delta's name."""
    closing: ExitStack = field(default_factory=ExitStack)
    """What to do when the call is over, however it ends."""

    @property
    def tokens(self) -> Tensor:
        """What the stack reads: ids ``[batch, tokens]`` or vectors ``[batch, tokens, d]``."""
        ids: Tensor | None = self.inputs.get("input_ids")
        vectors: Tensor | None = self.inputs.get("inputs_embeds")
        assert ids is not None or vectors is not None
        return vectors if ids is None else ids  # type: ignore[return-value]

    @property
    def batch(self) -> int:
        """How many rows the call has."""
        return self.tokens.shape[0]

    @property
    def past(self) -> int:
        """How many tokens the cache holds already."""
        cache = self.inputs.get("past_key_values")
        return 0 if cache is None else int(cache.get_seq_length())

    def seen(self, p: int) -> Tensor:
        """Which rows see the ``p`` vectors of the delta whose turn it is: booleans ``[batch, p]``."""
        seen = torch.zeros(self.batch, p, dtype=torch.bool, device=self.tokens.device)
        seen[slice(None) if self.taken is None else list(self.taken)] = True
        return seen

    @property
    def taken(self) -> tuple[int, ...] | None:
        """The rows that the delta whose turn it is acts on; ``None`` for all."""
        return self.routing.indices(self.name, self.batch)

    @property
    def groups(self) -> list[tuple[tuple[int, ...] | None, Routing]]:
        """These rows by what else acts on them; see :meth:`Routing.groups`. Parts that run the stack act on none."""
        hidden = frozenset(name for name, part in self.parts.items() if part.runs_stack)
        return self.routing.groups(self.name, self.batch, hidden)

    def stamp(self) -> Stamp:
        """What a run of this stack depends on now, besides its inputs and the routing."""
        device = self.tokens.device.type
        precision = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        tensors = (*self.module.parameters(), *self.bank.parameters(), *self.bank.buffers())
        return Stamp(tensors, precision, *((delta.name, delta.acts) for delta in self.bank))


class Stamp:
    """Tensors and facts as they are now: equal to a later one if nothing has changed. Keeps no tensor alive."""

    def __init__(self, tensors: Iterable[Tensor], *facts: object) -> None:
        self.tensors = [(weakref.ref(tensor), _content(tensor)) for tensor in tensors]
        self.facts = facts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stamp) or self.facts != other.facts or len(self.tensors) != len(other.tensors):
            return False
        pairs = zip(self.tensors, other.tensors, strict=True)
        return all(a() is b() is not None and now == then for (a, now), (b, then) in pairs)

    __hash__ = None  # type: ignore[assignment]


def _content(tensor: Tensor) -> object:
    """Changes when a tensor is changed in place, or its memory exchanged."""
    try:
        return tensor._version, tensor.data_ptr()
    except RuntimeError:  # made in inference mode, or without memory of its own: nothing tells, so it may have changed
        return object()


def named_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``module.forward`` by name."""
    if not args:
        return dict(kwargs)
    names = [name for name, p in inspect.signature(module.forward).parameters.items() if p.kind is not p.VAR_KEYWORD]
    return dict(zip(names, args, strict=False)) | dict(kwargs)
