"""Prompts that begin alike, run once before writing begins: a cache that ``generate`` goes on from.

The prompts of a batch, each without its last token, are one trie. A run over it leaves in each layer's attention the
keys and values of every row; a prompt's own, gathered and padded on the left, are what its cache would hold. Learned
rows never enter a cache, so deltas that put some in front act as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from deltatune.attachment.attention import attention_sites
from deltatune.attachment.bank import unwrap
from deltatune.attachment.shards import is_sharded
from deltatune.attachment.stacks import evaluating, listening, record, stacks_of
from deltatune.errors import DataError
from deltatune.packing.known import ask, is_routed
from deltatune.packing.packed import SHARED, lay_out
from deltatune.packing.path import PackedModel, why_not
from deltatune.packing.trie import alike, build

__all__ = ["SAVED", "prefill", "shared_tokens", "why_no_prefill"]

SAVED = 64
"""How many tokens have to be shared for it to pay: writing then begins with a pass over the weights more."""

Ids = Sequence[int]


def shared_tokens(prompts: Sequence[Ids]) -> int:
    """About how many tokens of prompts need not run, since others begin with them too."""
    common = (alike(a, b) for a, b in pairwise(sorted(list(prompt)[:-1] for prompt in prompts)))
    return sum(tokens for tokens in common if tokens >= SHARED)


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


@torch.no_grad()
def prefill(model: nn.Module, prompts: Sequence[Ids], *, copies: int = 1, least: int = SHARED) -> DynamicCache:
    """What a cache holds of each prompt but its last token, padded on the left; what prompts begin with runs once.

    ``model.generate(input_ids, attention_mask, past_key_values=cache)`` goes on from it, given the whole prompts padded
    on the left. It writes into the cache, so that serves once.

    Args:
        model: one of which :func:`why_no_prefill` says nothing.
        prompts: token ids; one has to have two or more.
        copies: how many rows of the batch each prompt takes, one after the other: beams, or sequences of a prompt.
            Default: 1.
        least: share only stretches of so many tokens. Default: 16.

    Raises:
        DataError: no prompt has two tokens.
    """
    model = unwrap(model)
    texts = [list(prompt)[:-1] for prompt in prompts]
    width = max(map(len, texts), default=0)
    if not width:
        raise DataError("prefill: expected a prompt of two tokens or more, found none; write without it")
    begun = [text for text in texts if text]
    batch = lay_out(build(begun, least=least), begun)
    packed_model, device = PackedModel(model), next(model.parameters()).device
    # What stands for padding is never seen, so any row will do for it.
    found = iter(batch.layout.rows_of_texts())
    rows = [[0] * (width - len(text)) + (next(found) if text else []) for text in texts]
    with evaluating(model), packed_model.listening(), record(packed_model.attention) as noted:
        packed_model.hidden(batch.to(device))
    cache, index = DynamicCache(config=_config(model)), torch.tensor(rows, device=device)
    for layer, module in enumerate(packed_model.attention):
        keys, values = (_gathered(each[0], index.to(each.device)) for each in noted.pop(module))
        cache.update(keys, values, layer)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
    return cache


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
