"""A call of a whole stack of layers, as a part that changes it sees it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.routing import Routing

__all__ = ["Call", "named_inputs"]


@dataclass
class Call:
    """One call of a stack: its inputs by name, to be changed in place, and who takes part."""

    module: nn.Module
    inputs: dict[str, Any]
    routing: Routing
    under: Callable[[Routing], AbstractContextManager[None]]
    """Run something under another routing."""
    peers: frozenset[str]
    """The deltas that change this stack's calls; hidden from one another when they run the stack themselves."""
    trained: Callable[[], Iterable[Tensor]]
    """Every tensor of every delta, to see whether one has changed."""
    name: str = ""
    """The delta whose turn it is."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a part leaves for its :meth:`Part.answer`, by the delta's name."""

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
        """These rows by what else acts on them; see :meth:`Routing.groups`."""
        return self.routing.groups(self.name, self.batch, self.peers)


def named_inputs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``module.forward`` by name."""
    if not args:
        return dict(kwargs)
    names = [name for name, p in inspect.signature(module.forward).parameters.items() if p.kind is not p.VAR_KEYWORD]
    return dict(zip(names, args, strict=False)) | dict(kwargs)
