"""Whole stacks of layers: which a model has, how it counts positions, and what a run of one leaves in attention."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from deltatune.attachment.attention import HOOK, is_listening, listen, unlisten
from deltatune.attachment.calls import Call
from deltatune.attachment.part import Rows
from deltatune.attachment.sites import Site, base_modules
from deltatune.errors import AttachError, SiteError

__all__ = [
    "Stacks",
    "counts_distances",
    "evaluating",
    "first_position",
    "handed_to_checkpoints",
    "in_mode",
    "is_rotary",
    "is_rotated_as_usual",
    "learned_positions",
    "listening",
    "positions_of",
    "record",
    "refuse_unlearned",
    "rotated",
    "shift_positions",
    "stacks_of",
    "standing_in_front",
    "takes_positions",
    "widen_mask",
    "without_checkpoints",
]


POSITIONS = ("position_embeddings", "embed_positions", "wpe")
"""What models call the embeddings of positions."""


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
    stack = None if trunk is None else _innermost(trunk)
    if stack is None:
        raise SiteError(
            f"{type(model).__name__}: expected a model that takes tokens, found none that takes inputs_embeds"
        )
    site = _named(model, stack)
    return Stacks(None, site) if _is_causal(stack) else Stacks(site, None)


def _innermost(module: nn.Module) -> nn.Module | None:
    """The module that runs the layers: a head may call it directly, past those around it (OPT)."""
    inner = [c for c in module.children() if any(isinstance(m, nn.ModuleList) for m in c.modules())]
    found = [stack for child in inner if (stack := _innermost(child)) is not None]
    if len(found) == 1:
        return found[0]
    takes = "inputs_embeds" in inspect.signature(module.forward).parameters
    return module if takes and hasattr(module, "get_input_embeddings") else None


def _named(model: nn.Module, wanted: nn.Module) -> Site:
    name = next((name for name, module in base_modules(model) if module is wanted), "")
    return Site(name, wanted)


def _is_causal(stack: nn.Module) -> bool:
    said: bool | None = getattr(getattr(stack, "config", None), "is_causal", None)
    return any(getattr(module, "is_causal", False) for module in stack.modules()) if said is None else said


def is_rotary(model: nn.Module) -> bool:
    """Whether positions enter by rotating queries and keys."""
    return any("Rotary" in type(module).__name__ for module in model.modules())


def takes_positions(stack: nn.Module) -> bool:
    """Whether a stack can be told its tokens' positions; one with relative positions can not."""
    return "position_ids" in inspect.signature(stack.forward).parameters


def counts_distances(stack: nn.Module) -> bool:
    """Whether positions enter only as distances between tokens, as in T5."""
    return any("relative_attention_bias" in name for name, _ in stack.named_modules())


def _position_table(stack: nn.Module, takes: str) -> Any:
    """The table of learned positions that has or is called with ``takes``; most have neither."""
    tables = (m for name, m in stack.named_modules() if isinstance(m, nn.Embedding) and "position" in name)
    return next(
        (t for t in tables if getattr(t, takes, None) is not None or takes in inspect.signature(t.forward).parameters),
        None,
    )


def first_position(stack: nn.Module) -> int:
    """Where a stack begins to count: 0, or, as in RoBERTa, after the number that stands for padding."""
    table = _position_table(stack, "padding_idx")
    return 0 if table is None else int(table.padding_idx) + 1


def positions_of(call: Call) -> Tensor:
    """The positions of a call's tokens, ``[batch, tokens]``: as given, or as the stack itself would count them."""
    given: Tensor | None = call.inputs.get("position_ids")
    if given is not None:
        return given.expand(call.batch, -1)
    mask: Tensor | None = call.inputs.get("attention_mask")
    past, tokens, first = call.past, call.tokens, first_position(call.module)
    if first and tokens.dim() == 2:  # padding is not counted
        text = (tokens != first - 1).long()
        return (text.cumsum(dim=1) + past) * text + first - 1
    if mask is not None and not mask[:, 0].all() and _position_table(call.module, "attention_mask") is not None:
        raise AttachError("position_ids: expected them where padding is on the left; pass attention_mask.cumsum(1) - 1")
    counted = torch.arange(past, past + tokens.shape[1], device=tokens.device) + first
    return counted.expand(call.batch, -1)


def shift_positions(call: Call, by: int) -> None:
    """Count the text of the rows that are taken from ``by``; a stack that takes no positions is left alone.

    Raises:
        AttachError: the stack has not learned so many positions.
    """
    if takes_positions(call.module):
        positions = positions_of(call) + by * call.seen(1).long()
        refuse_unlearned(call, positions, by)
        call.inputs["position_ids"] = positions


def refuse_unlearned(call: Call, positions: Tensor, p: int) -> None:
    """Refuse positions beyond those that a stack has learned, where ``p`` rows stand in front of its text.

    Raises:
        AttachError: there is one; an index error would say so on the CPU, and end the process on a GPU.
    """
    learned = learned_positions(call.module)
    if learned is None or call.past + positions.shape[1] + p <= learned:
        return  # most calls are far from it, so nothing waits for the GPU
    last = int(positions.max()) - first_position(call.module)
    if last >= learned:
        raise AttachError(
            f"{type(call.module).__name__}: expected text that leaves room for the {p} rows in front of it in "
            f"{learned:,} learned positions, found position {last:,}; shorten the text"
        )


def learned_positions(model: nn.Module) -> int | None:
    """How many tokens a text may have where each position has an embedding; ``None`` where positions are computed.

    With a padding index, as in RoBERTa, they are counted from behind it; in OPT from an offset.
    """
    tables = (
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITIONS
    )
    return min((table.num_embeddings - _skipped(table) for table in tables), default=None)


def _skipped(table: nn.Embedding) -> int:
    return int(getattr(table, "offset", 0)) + (0 if table.padding_idx is None else table.padding_idx + 1)


def widen_mask(mask: Tensor | None, seen: Tensor, tokens: int, *, front: bool) -> Tensor:
    """A padding mask ``[batch, tokens]`` with ``seen`` ``[batch, p]`` before or behind it.

    Raises:
        AttachError: the mask is of another form.
    """
    if mask is None:
        mask = torch.ones(seen.shape[0], tokens, dtype=torch.long, device=seen.device)
    if mask.dim() != 2:
        raise AttachError(f"attention_mask: expected [batch, tokens] beside a prompt, found {list(mask.shape)}")
    return torch.cat([seen.to(mask.dtype), mask] if front else [mask, seen.to(mask.dtype)], dim=1)


@contextlib.contextmanager
def record(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """Within this context, note each module's own keys and values, ``[batch, kv_heads, tokens, head_dim]``."""
    noted: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, key: Tensor, value: Tensor) -> list[Rows]:
        noted[module] = (key, value)
        return []

    with _asking(modules, note):
        yield noted


@contextlib.contextmanager
def standing_in_front(rows: Mapping[nn.Module, Rows]) -> Iterator[None]:
    """Within this context attention modules have rows in front, nearer to their own than those of deltas."""
    with _asking(rows, lambda module, key, value: [rows[module]]):
        yield


@contextlib.contextmanager
def _asking(modules: Iterable[nn.Module], more: Callable[[nn.Module, Tensor, Tensor], list[Rows]]) -> Iterator[None]:
    """Within this context attention modules ask this too, after what they ask already, what stands in front of them."""
    former = {module: vars(module).get(HOOK) for module in modules}

    def front(module: nn.Module, key: Tensor, value: Tensor) -> list[Rows]:
        ask = former[module]
        return [*([] if ask is None else ask(key, value)), *more(module, key, value)]

    for module in former:
        vars(module)[HOOK] = partial(front, module)
    try:
        yield
    finally:
        for module, ask in former.items():
            vars(module).pop(HOOK)
            if ask is not None:
                vars(module)[HOOK] = ask


@contextlib.contextmanager
def listening(model: nn.Module, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within this context the attention ``modules`` of a model are ours, as they are when a delta acts there."""
    if all(is_listening(module) for module in modules):
        yield
        return
    listen(model)
    try:
        yield
    finally:
        unlisten(model)


@contextlib.contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Within this context every module of ``model`` is in training, or none; each is as it was afterwards."""
    former = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, was_training in former.items():
            module.training = was_training


def evaluating(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Within this context no module of ``model`` is in training; each is as it was afterwards."""
    return in_mode(model, training=False)


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


class Holder(Protocol):
    """Something that holds what stands in front of an attention module during a call."""

    front: list[Rows]


CHECKPOINT = "_gradient_checkpointing_func"
"""Where ``transformers`` and ``diffusers`` keep a layer's checkpointing function; no public call changes it alone."""


@contextlib.contextmanager
def handed_to_checkpoints(stack: nn.Module, holders: Mapping[str, Holder]) -> Iterator[None]:
    """Hand each checkpointed layer what ``holders``, by module name, have for it, so that it is there in backward too.

    It goes there as arguments, so gradients flow back whichever way the layer is checkpointed.
    """
    former: dict[nn.Module, Any] = {}
    for place, layer in stack.named_modules():
        if getattr(layer, "gradient_checkpointing", False) and CHECKPOINT in vars(layer):
            inside = [holder for name, holder in holders.items() if f"{name}.".startswith(f"{place}." if place else "")]
            former[layer] = vars(layer)[CHECKPOINT]
            setattr(layer, CHECKPOINT, partial(_checkpoint, former[layer], inside))
    try:
        yield
    finally:
        for layer, function in former.items():
            setattr(layer, CHECKPOINT, function)


def _checkpoint(function: Callable[..., Any], holders: list[Holder], run: Callable[..., Any], *args: Any) -> Any:
    """Checkpoint ``run`` with ``function``, with what ``holders`` have now whenever that is."""
    fronts = [holder.front for holder in holders]
    handed = [tensor for front in fronts for rows in front for tensor in (rows.keys, rows.values)]

    def run_with(*given: Any) -> Any:
        rest = iter(given)
        former = [holder.front for holder in holders]
        for holder, front in zip(holders, fronts, strict=True):
            holder.front = [Rows(next(rest), next(rest), rows.taken) for rows in front]
        try:
            return run(*rest)
        finally:
            for holder, front in zip(holders, former, strict=True):
                holder.front = front

    return function(run_with, *handed, *args)


def is_rotated_as_usual(model: nn.Module, attention: nn.Module) -> bool:
    """Whether :func:`rotated` knows the positions of a model, which may also have no rotation at all."""
    return not is_rotary(model) or _rotation(model, attention) is not None


def _rotation(model: nn.Module, attention: nn.Module) -> tuple[Any, Any] | None:
    """The module that gives cosines and sines for positions, and the function that turns by them.

    ``None`` if they are not as in most models: some rotate differently from layer to layer.
    """
    rotary = next(module for module in model.modules() if "Rotary" in type(module).__name__)
    apply = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
    is_usual = list(inspect.signature(rotary.forward).parameters) == ["x", "position_ids"]
    return (rotary, apply) if apply is not None and is_usual else None


def rotated(model: nn.Module, attention: nn.Module, keys: Tensor, by: int) -> Tensor:
    """Keys ``[kv_heads, p, head_dim]`` moved ``by`` positions, with the model's own rotation.

    Raises:
        SiteError: the model rotates in a way that is not known here.
    """
    if keys.is_meta or not is_rotary(model):
        return keys
    known = _rotation(model, attention)
    if known is None:
        raise SiteError(f"{type(attention).__name__}: expected rotary positions of the usual form, found others")
    rotary, apply = known
    positions = torch.full((1, keys.shape[1]), by, device=keys.device)
    cos, sin = rotary(keys, positions)
    turning, rest = keys.split([cos.shape[-1], keys.shape[-1] - cos.shape[-1]], dim=-1)  # some models turn a part
    turned: Tensor = apply(turning[None], turning[None], cos, sin)[1][0]
    return torch.cat([turned / getattr(rotary, "attention_scaling", 1.0), rest], dim=-1)
