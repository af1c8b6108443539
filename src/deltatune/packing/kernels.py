"""Attention over a packed batch in one call, for implementations that know batches of their own kind.

Flash attention takes texts of different lengths one after the other, and aligns causality at their ends: a node's rows
with the keys of its ancestors in front are such a text. Flex attention takes a rule for who sees whom: with nodes laid
out depth first it is an interval, row i sees row j if ``j <= i < reach[j]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Rows
from deltatune.packing.attend import Attention, in_front, refuse_sliding
from deltatune.packing.layout import Layout

__all__ = ["attend_by_lengths", "attend_by_rule"]


def attend_by_lengths(
    inner: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    front: Sequence[Rows] = (),
    **options: Any,
) -> Tensor:
    """As :func:`deltatune.packing.attend.attend`, for flash attention."""
    lengths = layout.lengths
    keys, values = (states.index_select(2, lengths.rows) for states in (key, value))
    before = in_front(front, key, value)
    if before:
        keys = _each_begun(keys, [learned for learned, _ in before], lengths.keys)
        values = _each_begun(values, [learned for _, learned in before], lengths.keys)
    window, p = options.get("sliding_window"), sum(learned.shape[2] for learned, _ in before)
    counts = [number + p for number in lengths.keys]
    if before and window is not None:
        refuse_sliding(window, max(counts), p)
    around = {
        "cu_seq_lens_q": _cumulated(lengths.queries, query.device),
        "cu_seq_lens_k": _cumulated(counts, query.device),
        "max_length_q": max(lengths.queries),
        "max_length_k": max(counts),
    }
    return inner(module, query, keys, values, None, **{**options, **around})[0]


def _each_begun(states: Tensor, front: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Learned rows in front of those of each text."""
    return torch.cat([piece for each in states.split(list(lengths), dim=2) for piece in (*front, each)], dim=2)


def _cumulated(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)


def attend_by_rule(
    inner: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    front: Sequence[Rows] = (),
    **options: Any,
) -> Tensor:
    """As :func:`deltatune.packing.attend.attend`, for flex attention."""
    before = in_front(front, key, value)
    keys = torch.cat([*(learned for learned, _ in before), key], dim=2)
    values = torch.cat([*(learned for _, learned in before), value], dim=2)
    mask = layout.rule(sum(learned.shape[2] for learned, _ in before), options.get("sliding_window"))
    return inner(module, query, keys, values, mask, **options)[0]
