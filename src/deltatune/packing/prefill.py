"""Prompts that begin alike, run once before writing begins: a cache that ``generate`` goes on from.

The prompts of a batch, each without its last token, are one trie. A run over it leaves in each layer's attention the
keys and values of every row; a prompt's own, gathered and padded on the left, are what its cache would hold. Learned
rows never enter a cache, so deltas that put some in front act as ever.

What all prompts begin with is not in the cache of each. It is held once and stands in front of them all, where one
matrix product does for every row (after Juravsky 2024, Hydragen, https://arxiv.org/abs/2402.05099).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from deltatune.attachment.attention import attention_sites
from deltatune.attachment.bank import unwrap
from deltatune.attachment.part import Rows
from deltatune.attachment.shards import is_sharded
from deltatune.attachment.stacks import evaluating, listening, record, stacks_of, standing_in_front
from deltatune.errors import DataError
from deltatune.packing.known import ask, is_routed
from deltatune.packing.packed import SHARED, lay_out
from deltatune.packing.path import PackedModel, why_not
from deltatune.packing.trie import alike, build

__all__ = ["SAVED", "begun", "prefill", "saved_tokens", "why_no_prefill"]

SAVED = 64
"""How many tokens have to be shared for it to pay: writing then begins with a pass over the weights more."""

Ids = Sequence[int]


def saved_tokens(prompts: Sequence[Ids], copies: int = 1) -> int:
    """About how many tokens of the rows that prompts take need not run, since others begin with them too."""
    texts = sorted(list(prompt)[:-1] for prompt in prompts for _ in range(copies))
    return sum(tokens for tokens in (alike(a, b) for a, b in pairwise(texts)) if tokens >= SHARED)


def why_no_prefill(model: nn.Module) -> str | None:
    """Why writing can not begin from a trie of prompts on a model, or ``None`` if it can.

    Args:
        model: the model, with whatever is attached.
    """
    model = unwrap(model)
    if is_routed(model):
        return "prompts take different deltas"
    if is_sharded(model):
        return "its weights lie on several devices"
    return ask(why_not, model) or ask(_difference, model)


@contextlib.contextmanager
def begun(
    model: nn.Module, prompts: Sequence[Ids], *, copies: int = 1, pad: int = 0, least: int = SHARED, ahead: int = SAVED
) -> Iterator[dict[str, Tensor | Any]]:
    """What ``model.generate`` goes on from within this context: tokens, their mask, and a cache of all but the last.

    Args:
        model: one of which :func:`why_no_prefill` says nothing.
        prompts: token ids; one has to have two or more.
        copies: how many rows of the batch each prompt takes, one after the other: beams, or sequences of a prompt.
            Default: 1.
        pad: the token that stands for none. Default: 0.
        least: share only stretches of so many tokens. Default: 16.
        ahead: with how many tokens all prompts have to begin for these to be held once. Default: 64.

    Raises:
        DataError: no prompt has two tokens.
    """
    model, device = unwrap(model), next(model.parameters()).device
    common = _common(prompts) if len(prompts) * copies > 1 else 0
    ahead = common if common >= ahead else 0
    found = prefill(model, prompts, ahead=ahead, least=least)
    if copies > 1:
        found.cache.batch_repeat_interleave(copies)
    width = max(map(len, prompts))
    rows = [[*prompt[:ahead], *[pad] * (width - len(prompt)), *prompt[ahead:]] for prompt in prompts]
    seen = [[*[1] * ahead, *[0] * (width - len(prompt)), *[1] * (len(prompt) - ahead)] for prompt in prompts]
    inputs = {"input_ids": torch.tensor(rows, device=device), "attention_mask": torch.tensor(seen, device=device)}
    if not ahead:
        yield {**inputs, "past_key_values": found.cache}
        return
    with listening(model, found.front), standing_in_front(found.front):
        yield {**inputs, "past_key_values": found.cache}


class Prefilled(NamedTuple):
    """What is known of prompts when writing begins."""

    cache: Cache
    """Of each prompt all but its first tokens, which are in front, and its last one; padded on the left."""
    front: dict[nn.Module, Rows]
    """By attention module the keys and values of what all prompts begin with."""


@torch.no_grad()
def prefill(model: nn.Module, prompts: Sequence[Ids], *, ahead: int = 0, least: int = SHARED) -> Prefilled:
    """Run prompts but for their last tokens; what several begin with runs once.

    Args:
        model: one of which :func:`why_no_prefill` says nothing.
        prompts: token ids; one has to have two or more.
        ahead: how many tokens, with which all prompts begin, stand in front. Default: none.
        least: share only stretches of so many tokens. Default: 16.

    Raises:
        DataError: no prompt has two tokens.
    """
    model = unwrap(model)
    texts = [list(prompt)[:-1] for prompt in prompts]
    width = max(map(len, texts), default=0)
    if not width:
        raise DataError("prefill: expected a prompt of two tokens or more, found none; write without it")
    longer = [text for text in texts if text]
    batch = lay_out(build(longer, least=least), longer)
    packed_model, device = PackedModel(model), next(model.parameters()).device
    found = iter(batch.layout.rows_of_texts())
    rows = [next(found) if text else [] for text in texts]
    # What stands for padding is never seen, so any row will do for it.
    own = [[0] * (width - len(text)) + list(row[ahead:]) for text, row in zip(texts, rows, strict=True)]
    with evaluating(model), packed_model.listening(), record(packed_model.attention) as noted:
        packed_model.hidden(batch.to(device))
    cache = Cache([Behind(ahead) for _ in packed_model.attention]) if ahead else DynamicCache(config=_config(model))
    index, first = torch.tensor(own, device=device), torch.tensor(rows[0][:ahead], device=device, dtype=torch.long)
    front = {}
    for layer, module in enumerate(packed_model.attention):
        keys, values = (each[0] for each in noted.pop(module))
        there, here = first.to(keys.device), index.to(keys.device)
        front[module] = Rows(keys[:, there], values[:, there], None)
        if here.numel():
            cache.update(_gathered(keys, here), _gathered(values, here), layer)
    return Prefilled(cache, front)


class Behind(DynamicLayer):
    """The cache of a layer, of what stands behind some first tokens that are kept elsewhere.

    Args:
        ahead: how many tokens they are.
    """

    def __init__(self, ahead: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ahead = ahead

    def get_seq_length(self) -> int:
        """All tokens that there are, which positions count on from."""
        return self.ahead + self._own

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The keys that a mask is for, and the first one's position: those in front are seen by all."""
        return self._own + query_length, self.ahead

    @property
    def _own(self) -> int:
        return int(super().get_seq_length())

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """As ever, where there is anything."""
        if self.is_initialized:
            super().reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """As ever, where there is anything."""
        if self.is_initialized:
            super().batch_repeat_interleave(repeats)


def _common(prompts: Sequence[Ids]) -> int:
    """With how many tokens all prompts begin, their last ones aside."""
    texts = [list(prompt) for prompt in prompts]
    first, last = min(texts), max(texts)  # what is between them begins no other way
    return min(alike(first, last), *(len(prompt) - 1 for prompt in prompts))


def _gathered(each: Tensor, rows: Tensor) -> Tensor:
    """``[kv_heads, all rows, d]`` as ``[batch, kv_heads, tokens, d]``."""
    return each[:, rows].transpose(0, 1).contiguous()


def _config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)


@torch.no_grad()
def _difference(model: nn.Module) -> str | None:
    """How what a model's cache holds differs from what its attention is given."""
    kind, stack = type(model).__name__, stacks_of(model).decoder
    assert stack is not None  # else packed batches would not run either
    modules, ids = [site.module for site in attention_sites(model)], torch.ones(1, 3, dtype=torch.long)
    with evaluating(model), listening(model, modules), record(modules) as noted:
        try:
            cache = DynamicCache(config=_config(model))
            stack.module(input_ids=ids.to(next(model.parameters()).device), past_key_values=cache, use_cache=True)
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            return f"{kind}: {' '.join(str(error).split())}"
    layers = [layer for layer in cache.layers if type(layer) is DynamicLayer]
    if len(layers) != len(cache.layers):  # others keep a part, or something else
        return f"{kind} has a cache of another kind"
    pairs = [(layer.keys, layer.values) for layer in layers]
    given = [noted.get(module) for module in modules]
    same = len(pairs) == len(given) and all(
        there is not None and all(map(_equal, here, there)) for here, there in zip(pairs, given, strict=True)
    )
    return None if same else f"{kind} caches something else than its attention is given"


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool((a == b).all())
