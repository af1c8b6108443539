"""Attention over a packed batch in one call, for implementations that know batches of their own kind.

Flash attention takes texts of different lengths one after the other, and aligns causality at their ends: a node's rows
with the keys of its ancestors in front are such a text. Flex attention takes a rule for who sees whom: with nodes laid
out depth first it is an interval, row i sees row j if ``j <= i < reach[j]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Rows
from deltatune.packing.layout import Layout

__all__ = ["attend_by_lengths", "attend_by_rule"]

Attention = Callable[..., tuple[Tensor, Any]]


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
    before = sum(rows.keys.shape[1] for rows in front)
    if front:
        keys = _each_begun(keys, [rows.keys for rows in front], lengths.keys)
        values = _each_begun(values, [rows.values for rows in front], lengths.keys)
    counts = [number + before for number in lengths.keys]
    around = {
        "cu_seq_lens_q": _cumulated(lengths.queries, query.device),
        "cu_seq_lens_k": _cumulated(counts, query.device),
        "max_length_q": max(lengths.queries),
        "max_length_k": max(counts),
    }
    return inner(module, query, keys, values, None, **{**options, **around})[0]


def _each_begun(states: Tensor, front: Sequence[Tensor], lengths: Sequence[int]) -> Tensor:
    """Learned rows in front of those of each text."""
    own = [rows.to(states.dtype)[None] for rows in front]
    return torch.cat([piece for each in states.split(list(lengths), dim=2) for piece in (*own, each)], dim=2)


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
    before = sum(rows.keys.shape[1] for rows in front)
    keys = torch.cat([*(rows.keys.to(key.dtype)[None] for rows in front), key], dim=2)
    values = torch.cat([*(rows.values.to(value.dtype)[None] for rows in front), value], dim=2)
    mask = layout.rule(before, options.get("sliding_window"))
    return inner(module, query, keys, values, mask, **options)[0]
