"""Running what takes part: each model once a token, and twice only where two of its states are asked for.

A state is a model with some of its deltas off. Two states of one model run as one batch in which each row takes its
route, so the weights are read once; where a delta can not be routed they run one after the other.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from deltatune.attachment.bank import find_bank
from deltatune.attachment.lifecycle import deltas, routed
from deltatune.attachment.routing import EVERYTHING
from deltatune.errors import ConfigError

__all__ = ["Caches", "Inputs", "Side", "arguments_of", "passes", "run"]


@dataclass(frozen=True)
class Inputs:
    """What a side reads."""

    ids: Tensor
    """``[batch, tokens]``: those that its cache does not hold."""
    mask: Tensor | None = None
    """``[batch, tokens and those in the cache]``."""
    positions: Tensor | None = None
    """``[batch or 1, tokens]``."""


@dataclass(frozen=True)
class Side:
    """A model in a state."""

    model: Any
    off: frozenset[str] = frozenset()
    """The deltas that do not act."""
    own: bool = False
    """Whether it reads a prompt of its own."""


@dataclass(frozen=True)
class _Pass:
    """One run of a model: of one side, or of two in a batch."""

    sides: tuple[Side, ...]

    @property
    def model(self) -> Any:
        return self.sides[0].model


class Caches(Cache):
    """A cache for each run, to be handed on as one: what beams or rollbacks do to it happens to all."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.parts: list[Cache] = []
        self.copies: list[int] = []
        """How many states lie one after the other in the batch of each."""
        self.batch = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """The tokens that the base's cache holds."""
        return self.length(0)

    def length(self, number: int) -> int:
        """The tokens that a run's cache holds."""
        return int(self.parts[number].get_seq_length()) if self.parts else 0

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """-1, as of any that grows."""
        return -1

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return bool(self.parts)

    @property
    def is_croppable(self) -> bool:
        return all(part.is_croppable for part in self.parts)

    @property
    def is_sliding(self) -> list[bool]:
        return [any(part.is_sliding) for part in self.parts]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on from another's past."""
        for part, copies in zip(self.parts, self.copies, strict=True):
            part.reorder_cache(self._rows(beam_idx, copies))  # type: ignore[arg-type]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        for part, copies in zip(self.parts, self.copies, strict=True):
            part.batch_select_indices(self._rows(indices, copies))
        self.batch = len(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row in place."""
        for part in self.parts:
            part.batch_repeat_interleave(repeats)
        self.batch *= repeats

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens."""
        for part in self.parts:
            part.crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget all."""
        self.parts, self.copies, self.batch = [], [], 0

    def activate_past_recording(self) -> None:
        """Keep what a rollback needs."""
        for part in self.parts:
            part.activate_past_recording()

    def _rows(self, rows: Tensor, copies: int) -> Tensor:
        return torch.cat([rows + copy * self.batch for copy in range(copies)])


def passes(sides: Sequence[Side]) -> list[_Pass]:
    """The runs that the sides need, in the order in which the sides come."""
    found: list[_Pass] = []
    for side in dict.fromkeys(sides):
        mate = next((p for p in found if p.model is side.model and not (side.own or p.sides[0].own)), None)
        if mate is not None and _can_route(side.model):
            found[found.index(mate)] = _Pass((*mate.sides, side))
        else:
            found.append(_Pass((side,)))
    return found


def run(sides: Sequence[Side], inputs: Sequence[Inputs], caches: Caches | None, keep: int | Tensor = 0) -> list[Tensor]:
    """The logits of each side, ``[batch, kept, tokens of its vocabulary]``.

    Args:
        sides: models in their states.
        inputs: what each reads.
        caches: goes on from it and adds to it. Default: none is kept.
        keep: the columns wanted, as of `transformers`: the last so many (0 is all), or these.
    """
    answers: dict[Side, Tensor] = {}
    for number, each in enumerate(passes(sides)):
        past = caches.parts[number] if caches is not None and caches.parts and number < len(caches.parts) else None
        given = inputs[sides.index(each.sides[0])]
        output = _forward(each, given, past, caches is not None, keep)
        if caches is not None and past is None:
            if not isinstance(getattr(output, "past_key_values", None), Cache):
                raise ConfigError(
                    f"{type(each.model).__name__}: expected a model that keeps a cache, found none; pass "
                    "use_cache=False"
                )
            caches.parts.append(output.past_key_values)
            caches.copies.append(len(each.sides))
            caches.batch = len(given.ids)
        answers.update(zip(each.sides, output.logits.chunk(len(each.sides)), strict=True))
    return [answers[side] for side in sides]


def _forward(each: _Pass, given: Inputs, past: Cache | None, cached: bool, keep: int | Tensor) -> Any:
    model, count = each.model, len(each.sides)
    batch, device = len(given.ids), next(model.parameters()).device
    arguments: dict[str, Any] = {"input_ids": given.ids, "attention_mask": given.mask, "position_ids": given.positions}
    takes = arguments_of(type(model).forward)
    for name, tensor in list(arguments.items()):
        if tensor is None or name not in takes:
            del arguments[name]
        else:
            arguments[name] = tensor.to(device).expand(batch, -1).repeat(count, 1)
    if "logits_to_keep" in takes:
        arguments["logits_to_keep"] = keep
    if past is not None:
        arguments["past_key_values"] = past
    with _states(each):
        output = model(**arguments, use_cache=cached, return_dict=True)
    if "logits_to_keep" not in takes:
        output.logits = output.logits[:, slice(-keep, None) if isinstance(keep, int) else keep]
    return output


@lru_cache(maxsize=64)
def arguments_of(forward: Callable[..., Any]) -> frozenset[str]:
    """The names of what a function takes."""
    return frozenset(inspect.signature(forward).parameters)


def _can_route(model: Any) -> bool:
    """Whether rows of a batch can take different deltas now."""
    bank = find_bank(model)
    return bank is not None and bank.routing == EVERYTHING and not any(delta.is_in_place for delta in bank)


@contextlib.contextmanager
def _states(each: _Pass) -> Iterator[None]:
    """The model so that each row of its batch is in its state."""
    attached = deltas(each.model)
    if len(each.sides) > 1:
        with routed(each.model, [[name for name in attached if name not in side.off] for side in each.sides]):
            yield
        return
    was_on = [delta for name, delta in attached.items() if name in each.sides[0].off and delta.enabled]
    try:
        for delta in was_on:
            delta.disable()
        yield
    finally:
        for delta in was_on:
            delta.enable()
