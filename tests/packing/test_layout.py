"""The blocks together say who attends to whom: each row to the tokens of its own text up to itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltatune.packing import layout as layouts
from deltatune.packing.layout import Layout
from deltatune.packing.trie import build
from tests.packing.texts import TEXTS


def seen(layout: Layout, window: int | None = None) -> torch.Tensor:
    """What each row attends to, ``[rows, rows]``, put together from the blocks."""
    rows = len(layout.reach)
    whole = torch.zeros(rows, rows, dtype=torch.bool)
    for block in layout.blocks:
        keys = [row for span in (*block.before, block.own) for row in range(*span)]
        mask = layout.mask(block, window=window)
        own = torch.ones(block.queries, block.queries, dtype=torch.bool).tril() if mask is None else mask[0, 0] == 0
        whole[block.start : block.stop, keys] = own
    return whole


def expected(texts: list[list[int]], least: int, window: int | None) -> torch.Tensor:
    nodes = build(texts, least=least)
    rows = nodes[-1].stop
    whole = torch.zeros(rows, rows, dtype=torch.bool)
    for number in range(len(texts)):
        path = [row for node in nodes if number in node.texts for row in range(node.start, node.stop)]
        for at, row in enumerate(path):
            whole[row, path[max(0, at + 1 - window) if window else 0 : at + 1]] = True
    return whole


@given(TEXTS, st.integers(1, 5), st.sampled_from([0, 20, 100, 10**6]), st.none() | st.integers(1, 6))
def test_blocks_see_what_texts_see(texts: list[list[int]], least: int, call: int, window: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "CALL", call)
        layout = Layout.of(build(texts, least=least))
        assert torch.equal(seen(layout, window), expected(texts, least, window))


@given(TEXTS)
def test_cheap_calls_leave_each_node_a_block_and_dear_ones_join_all(texts: list[list[int]]) -> None:
    nodes = build(texts, least=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "CALL", 10**9)
        assert len(Layout.of(nodes).blocks) == 1
        patch.setattr(layouts, "CALL", -(10**9))
        assert len(Layout.of(nodes).blocks) == len(nodes)


def test_learned_keys_in_front_are_seen_by_every_row() -> None:
    layout = Layout.of(build([[1, 2], [1, 3]], least=1))
    for block in layout.blocks:
        mask = layout.mask(block, front=4)
        assert mask is not None
        assert mask.shape[-1] == 4 + sum(b - a for a, b in (*block.before, block.own))
        assert not mask[..., :4].any()
