"""The blocks of flex attention against every pair of rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deltatune.packing.block_mask import block_mask
from deltatune.packing.layout import Layout
from deltatune.packing.trie import build
from tests.packing.texts import TEXTS


def pairs(layout: Layout, front: int, window: int | None) -> Tensor:
    """Who sees whom, ``[rows, front + rows]``."""
    row = torch.arange(len(layout.reach))
    seen = (row <= row[:, None]) & (row[:, None] < layout.reach)
    if window is not None:
        seen &= layout.depth[:, None] - layout.depth < window
    return torch.cat([torch.ones(len(row), front, dtype=torch.bool), seen], dim=1)


@given(TEXTS, st.integers(0, 9), st.none() | st.integers(1, 6), st.sampled_from([2, 4, 8]))
def test_blocks_that_are_left_out_see_nothing_and_whole_ones_all(
    texts: list[list[int]], front: int, window: int | None, block: int
) -> None:
    layout = Layout.of(build(texts, least=2))
    found, expected = block_mask(layout.reach, layout.depth, front, window, block=block), pairs(layout, front, window)
    zero = torch.zeros((), dtype=torch.int64)
    query, key = torch.meshgrid(*(torch.arange(size) for size in expected.shape), indexing="ij")
    assert torch.equal(found.mask_mod(zero, zero, query, key), expected)
    assert found.seq_lengths == tuple(expected.shape)

    def listed(number: Tensor, indices: Tensor) -> list[set[int]]:
        return [set(own[:count].tolist()) for count, own in zip(number[0, 0].tolist(), indices[0, 0], strict=True)]

    some, whole = listed(found.kv_num_blocks, found.kv_indices), listed(found.full_kv_num_blocks, found.full_kv_indices)
    for q, rows in enumerate(expected.split(block)):
        for k, inside in enumerate(rows.split(block, dim=1)):
            if k in whole[q]:
                assert inside.all()
                assert inside.shape == (block, block)
                assert k not in some[q]
            elif inside.any():
                assert k in some[q]


def test_most_blocks_of_many_texts_are_left_out() -> None:
    layout = Layout.of(build([[number] * 256 for number in range(32)], least=16))
    found = block_mask(layout.reach, layout.depth)
    assert found.sparsity() > 95
