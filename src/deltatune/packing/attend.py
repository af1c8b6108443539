"""Attention over a packed batch, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Rows
from deltatune.errors import AttachError
from deltatune.packing.layout import Block, Layout

__all__ = ["Attention", "attend", "attend_behind", "in_front", "refuse_sliding"]

Attention = Callable[..., tuple[Tensor, Any]]


def attend(
    inner: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    front: Sequence[Rows] = (),
    *,
    is_eager: bool = False,
    **options: Any,
) -> Tensor:
    """What each row of a packed batch attends to, ``[1, rows, heads, head_dim]``.

    Args:
        inner: the attention function of the model's own implementation.
        module: the attention module.
        query: ``[1, heads, rows, head_dim]``.
        key: ``[1, kv_heads, rows, head_dim]``.
        value: like ``key``.
        layout: who attends to whom.
        front: learned keys and values that every row sees. Default: none.
        is_eager: whether ``inner`` adds its mask to the scores, and knows no causality without one. Default: false.
        **options: passed on.
    """
    before = in_front(front, key, value)
    pieces = _Pieces(key, value, layout.blocks, before)
    count = sum(keys.shape[2] for keys, _ in before)
    outputs = []
    for block, own in zip(layout.blocks, query.split([block.queries for block in layout.blocks], dim=2), strict=True):
        keys, values = pieces.of(block)
        window = options.get("sliding_window")
        mask = layout.mask(block, count, window, plain_too=is_eager, dtype=query.dtype)
        outputs.append(inner(module, own, keys, values, mask, **options)[0])
    return torch.cat(outputs, dim=1)


def attend_behind(
    query: Tensor, front: Sequence[Rows], key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """One query of each row of a batch over rows that all have in front, and its own keys: ``[batch, 1, heads, d]``.

    The queries of all rows are one matrix to what stands in front, so that it is read once and never copied for each.
    The two halves meet in one softmax.

    Args:
        query: ``[batch, heads, 1, d]``.
        front: keys and values that every row sees.
        key: ``[batch, kv_heads, keys, d]``.
        value: like ``key``.
        mask: of the row's own keys, ``[batch or 1, 1, 1, keys]``: what is seen, or what is added to the scores.
        scaling: of the scores. Default: one over the root of d.
    """
    batch, heads, _, width = query.shape
    groups = key.shape[1]
    keys = _joined([rows.keys.to(key.dtype) for rows in front])
    values = _joined([rows.values.to(value.dtype) for rows in front])
    # Scaled before the product, which might otherwise be too large for half precision.
    queries = query.reshape(batch, groups, heads // groups, width) * (width**-0.5 if scaling is None else scaling)

    def to_front(each: Tensor) -> Tensor:
        """``[batch, kv_heads, queries, d]`` as ``[kv_heads, batch * queries, d]``."""
        return each.transpose(0, 1).flatten(1, 2)

    def to_rows(each: Tensor) -> Tensor:
        return each.view(groups, batch, heads // groups, -1).transpose(0, 1)

    own = queries @ key.transpose(2, 3)
    if mask is not None:
        own = own.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else own + mask
    far = to_rows(to_front(queries) @ keys.transpose(1, 2))
    precise = torch.promote_types(query.dtype, torch.float32)
    weights = torch.cat([far, own], dim=3).softmax(dim=3, dtype=precise).to(query.dtype)
    ahead, near = weights.split([keys.shape[1], key.shape[2]], dim=3)
    out: Tensor = to_rows(to_front(ahead) @ values) + near @ value
    return out.reshape(batch, 1, heads, width)


def refuse_sliding(window: int, keys: int, p: int) -> None:
    """Refuse rows in front that flash attention would let slide out of view.

    Args:
        window: how many keys a query sees.
        keys: how many there are, those in front among them.
        p: how many of them are in front.

    Raises:
        AttachError: there are more than the window holds.
    """
    if keys > window:
        raise AttachError(
            f"attention: expected at most {window} keys under flash attention with a sliding window, found "
            f"{keys} with {p} in front, which would slide out of view; use 'sdpa'"
        )


def _joined(each: list[Tensor]) -> Tensor:
    return each[0] if len(each) == 1 else torch.cat(each, dim=1)


def in_front(front: Sequence[Rows], key: Tensor, value: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Learned keys and values, each ``[1, kv_heads, p, head_dim]``, in the precision of what they stand before."""
    return [(rows.keys.to(key.dtype)[None], rows.values.to(value.dtype)[None]) for rows in front]


class _Pieces:
    """Keys and values in pieces from which those of any block can be put together.

    One split of each, since every slice of its own would have a gradient as long as the batch.
    """

    def __init__(
        self, key: Tensor, value: Tensor, blocks: Sequence[Block], front: Sequence[tuple[Tensor, Tensor]]
    ) -> None:
        self.front = front
        spans = [span for block in blocks for span in (*block.before, block.own)]
        cuts = sorted({row for span in spans for row in span})
        lengths = [stop - start for start, stop in pairwise(cuts)]
        self.pieces = list(zip(key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True))
        self.at = {row: number for number, row in enumerate(cuts)}

    def of(self, block: Block) -> tuple[Tensor, Tensor]:
        """The keys and values of the rows before a block, and of its own."""
        pieces = [
            *self.front,
            *(
                self.pieces[n]
                for start, stop in (*block.before, block.own)
                for n in range(self.at[start], self.at[stop])
            ),
        ]
        if len(pieces) == 1:
            return pieces[0]
        return torch.cat([keys for keys, _ in pieces], dim=2), torch.cat([values for _, values in pieces], dim=2)
