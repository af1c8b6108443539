"""Whole stacks of layers: which a model has, how it counts positions, and what a run of one leaves in attention."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deltatune.attachment.attention import HOOK, listen, unlisten
from deltatune.attachment.calls import Call
from deltatune.attachment.sites import Site, base_modules
from deltatune.errors import SiteError

__all__ = [
    "Stacks",
    "is_rotary",
    "listening",
    "positions_of",
    "record",
    "rotated",
    "shift_positions",
    "stacks_of",
    "takes_positions",
    "widen_mask",
    "without_checkpoints",
]


class Stacks(NamedTuple):
    """The stacks of layers of a language model; a model of one kind has one of them."""

    encoder: Site | None
    decoder: Site | None


def stacks_of(model: nn.Module) -> Stacks:
    """Find the stacks that take tokens.

    Raises:
        SiteError: the model takes no tokens.
    """
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return Stacks(_named(model, model.get_encoder()), _named(model, model.get_decoder()))  # type: ignore[operator]
    trunk = getattr(model, "base_model", None)
    if trunk is None or "inputs_embeds" not in inspect.signature(trunk.forward).parameters:
        raise SiteError(
            f"{type(model).__name__}: expected a model that takes tokens, found none that takes inputs_embeds"
        )
    site = _named(model, trunk)
    return Stacks(None, site) if _is_causal(trunk) else Stacks(site, None)


def _named(model: nn.Module, wanted: nn.Module) -> Site:
    name = next((name for name, module in base_modules(model) if module is wanted), "")
    return Site(name, wanted)


def _is_causal(stack: nn.Module) -> bool:
    return any(getattr(module, "is_causal", False) for module in stack.modules())


def is_rotary(model: nn.Module) -> bool:
    """Whether positions enter by rotating queries and keys."""
    return any("Rotary" in type(module).__name__ for module in model.modules())


def takes_positions(stack: nn.Module) -> bool:
    """Whether a stack can be told its tokens' positions; one with relative positions can not."""
    return "position_ids" in inspect.signature(stack.forward).parameters


def positions_of(call: Call) -> Tensor:
    """The positions of a call's tokens, ``[batch, tokens]``: as given, or counted on from the cache."""
    given: Tensor | None = call.inputs.get("position_ids")
    if given is None:
        past, tokens = call.past, call.tokens
        given = torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]
    return given.expand(call.batch, -1)


def shift_positions(call: Call, by: int) -> None:
    """Count the text of the rows that are taken from ``by``; a stack that takes no positions is left alone."""
    if takes_positions(call.module):
        call.inputs["position_ids"] = positions_of(call) + by * call.seen(1).long()


def widen_mask(mask: Tensor | None, seen: Tensor, tokens: int, *, front: bool) -> Tensor:
    """A padding mask ``[batch, tokens]`` with ``seen`` ``[batch, p]`` before or behind it."""
    if mask is None:
        mask = torch.ones(seen.shape[0], tokens, dtype=torch.long, device=seen.device)
    return torch.cat([seen.to(mask.dtype), mask] if front else [mask, seen.to(mask.dtype)], dim=1)


@contextlib.contextmanager
def record(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Within this context, note each module's own keys and values, ``[batch, kv_heads, tokens, head_dim]``."""
    noted: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    former = {module: vars(module).get(HOOK) for module in modules}

    def note(module: nn.Module) -> Any:
        def front(key: Tensor, value: Tensor) -> Any:
            noted[module] = (key, value)
            ask = former[module]
            return [] if ask is None else ask(key, value)

        return front

    for module in former:
        vars(module)[HOOK] = note(module)
    try:
        yield noted
    finally:
        for module, ask in former.items():
            vars(module).pop(HOOK)
            if ask is not None:
                vars(module)[HOOK] = ask


@contextlib.contextmanager
def listening(model: nn.Module) -> Iterator[None]:
    """Within this context the model's attention is ours, as it is when a delta acts there."""
    former = listen(model)
    try:
        yield
    finally:
        unlisten(model, former)


@contextlib.contextmanager
def without_checkpoints(stack: nn.Module) -> Iterator[None]:
    """Run a few rows without recomputation: what attention notes of them must stay in the graph."""
    layers: list[Any] = [m for m in stack.modules() if getattr(m, "gradient_checkpointing", False)]
    for layer in layers:
        layer.gradient_checkpointing = False
    try:
        yield
    finally:
        for layer in layers:
            layer.gradient_checkpointing = True


def rotated(model: nn.Module, attention: nn.Module, keys: Tensor, by: int) -> Tensor:
    """Keys ``[kv_heads, p, head_dim]`` moved ``by`` positions, with the model's own rotation.

    Raises:
        SiteError: the model rotates in a way that is not known here.
    """
    if keys.is_meta or not is_rotary(model):
        return keys
    rotary: Any = next(module for module in model.modules() if "Rotary" in type(module).__name__)
    apply = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    if apply is None or "position_ids" not in inspect.signature(rotary.forward).parameters:
        raise SiteError(f"{type(attention).__name__}: expected rotary positions of the usual form, found others")
    positions = torch.full((1, keys.shape[1]), by, device=keys.device)
    cos, sin = rotary(keys, positions)
    turned: Tensor = apply(keys[None], keys[None], cos, sin)[1][0]
    return turned / getattr(rotary, "attention_scaling", 1.0)
