"""Who sees whom in a packed batch as flex attention takes it, told block by block.

torch's own ``create_block_mask`` asks for every pair of rows, which takes gigabytes where batches are long. Here the
rows of a block are summed up first: with nodes laid out depth first row i sees row j if ``j <= i < reach[j]``, so the
least and the largest of a block tell whether some of its pairs may see each other, and whether all do.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BLOCK", "block_mask"]

BLOCK = 128
"""Rows of a block: flex attention's own default."""


def block_mask(reach: Tensor, depth: Tensor, front: int = 0, window: int | None = None, *, block: int = BLOCK) -> Any:
    """A ``BlockMask`` over all rows.

    Args:
        reach: ``[rows]``, the row before which each is seen.
        depth: ``[rows]``, how many rows of its text stand before each.
        front: how many learned keys stand before all others; every row sees them.
        window: see only keys less than so many tokens back. Default: all.
        block: rows of a block. Default: 128.
    """
    from torch.nn.attention.flex_attention import BlockMask

    rows, device = len(reach), reach.device
    row = torch.arange(-front, rows, device=device)  # learned keys have a number below 0
    reaches, depths = (F.pad(each, (front, 0)) for each in (reach, depth))

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = (row[key] <= query) & (query < reaches[key])
        if window is not None:
            seen = seen & (depths[query + front] - depths[key] < window)
        return seen | (key < front)

    query, own_depth = (_extent(each, block)[:, :, None] for each in (row[front:], depth))
    key, until, key_depth = (_extent(each, block)[:, None] for each in (row, reaches, depths))
    some = (key[0] <= query[1]) & (until[1] > query[0])
    every = (key[1] <= query[0]) & (until[0] > query[1]) & (key[0] >= 0)
    if window is not None:
        some &= own_depth[0] - key_depth[1] < window
        every &= own_depth[1] - key_depth[0] < window
    some |= key[0] < 0
    every |= key[1] < 0
    # Blocks at the end, which are not whole, are never told to be seen throughout.
    every &= torch.arange(1, len(some) + 1, device=device)[:, None] * block <= rows
    every &= torch.arange(1, some.shape[1] + 1, device=device) * block <= rows + front
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every), *_listed(every), BLOCK_SIZE=block, mask_mod=sees, seq_lengths=(rows, rows + front)
    )


def _extent(numbers: Tensor, block: int) -> Tensor:
    """The least and the largest number of each block, ``[2, blocks]``."""
    last = numbers[-1:].expand(-len(numbers) % block)  # again, in a block that is not whole
    return torch.stack(torch.cat([numbers, last]).view(-1, block).aminmax(dim=1))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and their numbers, those that it has first."""
    order = blocks.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return blocks.sum(dim=1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]
