"""Attention over a packed batch, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Rows
from deltatune.packing.layout import Block, Layout

__all__ = ["Attention", "attend", "in_front"]

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
