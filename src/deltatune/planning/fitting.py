"""What to change so that training fits, the cheapest first.

Cheap is what changes nothing that is learned, then what costs time, then what costs precision, then what trains less.
Each change is rehearsed as the step itself is, so what is promised is counted too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from deltatune.errors import DeltaError
from deltatune.methods.base import Method
from deltatune.planning.cost import Cost
from deltatune.planning.settings import Settings

__all__ = ["Change", "changes_to_fit"]

CostOf = Callable[[Method | None, Settings], Cost]


@dataclass(frozen=True)
class Change:
    """A change that helps."""

    text: str
    """What to do, in the words of a run's settings."""
    price: str
    """What it costs."""
    total: int
    """Bytes that a step takes with this change and those before it."""
    settings: dict[str, Any]
    """Of the plan, what to change."""
    method: dict[str, Any]
    """Of the method, what to change."""


@dataclass(frozen=True)
class _Try:
    """One thing that could be changed."""

    text: str
    price: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    method: dict[str, Any] = dataclasses.field(default_factory=dict)
    may_be_refused: bool = False
    """Whether there are methods that can not do with it."""


def changes_to_fit(
    cost: CostOf, method: Method | None, settings: Settings, found: Cost, room: int
) -> tuple[Change, ...]:
    """The cheapest changes with which a step takes no more than ``room`` bytes.

    Args:
        cost: tells what a method takes under some settings.
        method: the method; ``None`` for full fine-tuning.
        settings: as they are.
        found: what it takes with them.
        room: bytes.

    Returns:
        The changes, to be made together; none if all of them are not enough.
    """
    tries = [
        each
        for each in _tries(method, settings, found)
        if not each.may_be_refused or _total(cost, method, settings, [each]) < inf
    ]
    if _total(cost, method, settings, tries) > room:
        return ()
    for count in range(1, len(tries) + 1):
        if _total(cost, method, settings, tries[:count]) <= room:
            return _described(cost, method, settings, _needed(cost, method, settings, tries[:count], room))
    return ()


def _tries(method: Method | None, settings: Settings, found: Cost) -> Iterator[_Try]:
    """What can be changed, the cheapest first."""
    tokens, batches = settings.batch_tokens, settings.accumulation
    while tokens // 2 >= settings.seq_len:
        tokens, batches = tokens // 2, batches * 2
        text = f"batches of {tokens:,} tokens, {batches} of them a step (train.gradient_accumulation: {batches})"
        yield _Try(text, "nothing but idle cores", {"batch_tokens": tokens, "accumulation": batches})
    if not settings.savings:
        yield _Try("train as dt.Trainer does (train.packing)", "nothing", {"savings": True})
    if not settings.checkpointing:
        price = "up to a third more time; train.memory_budget checkpoints only as many layers as it takes"
        yield _Try("checkpoint layers (train.gradient_checkpointing: true)", price, {"checkpointing": True})
    if settings.optimizer in ("adamw_torch", "adamw_torch_fused") and found.optimizer > found.total // 50:
        yield _Try("train.optimizer: adamw_8bit", "moments in 8 bits", {"optimizer": "adamw_8bit"})
    if settings.quant is None and settings.dtype == "float32":
        yield _Try("base.dtype: bfloat16", "half the precision of the base", {"dtype": "bfloat16"})
    if settings.quant is None and method is not None:
        price = "some precision of the base, and time to unpack it"
        yield _Try("base.quant: nf4", price, {"quant": "nf4", "dtype": "bfloat16"}, may_be_refused=True)
    if method is not None and method.layers is None:
        yield _Try(
            "delta.layers: last:8",
            "the layers below learn nothing, and keep nothing",
            method={"layers": "last:8"},
            may_be_refused=True,
        )


def _applied(method: Method | None, settings: Settings, tries: Sequence[_Try]) -> tuple[Method | None, Settings]:
    for each in tries:
        settings = replace(settings, **each.settings)
        method = replace(method, **each.method) if method is not None and each.method else method
    return method, settings


def _total(cost: CostOf, method: Method | None, settings: Settings, tries: Sequence[_Try]) -> float:
    try:
        return cost(*_applied(method, settings, tries)).total
    except DeltaError:  # such as a method that works on the weights themselves, and packed ones
        return inf


def _needed(
    cost: CostOf, method: Method | None, settings: Settings, tries: Sequence[_Try], room: int
) -> Sequence[_Try]:
    """Without those that it would fit without, the dearest first; of several sizes of batch the largest that does."""
    needed = list(tries)
    for each in reversed(tries[:-1]):
        fewer = [one for one in needed if one is not each]
        if _total(cost, method, settings, fewer) <= room:
            needed = fewer
    return needed


def _described(cost: CostOf, method: Method | None, settings: Settings, tries: Sequence[_Try]) -> tuple[Change, ...]:
    return tuple(
        Change(
            each.text, each.price, int(_total(cost, method, settings, tries[: count + 1])), each.settings, each.method
        )
        for count, each in enumerate(tries)
    )
