"""Which rows of a packed batch attend together, and to which: attention in a few dense pieces, never tokens x tokens.

The rows of a trie, laid out depth first, see every row before them whose node's subtree they stand in. A block is some
consecutive rows with all the rows that any of them sees: the rows of their nodes' ancestors, and themselves. A node is
a block; where nodes are so small that a call costs more than what it computes, neighbours are one block with a mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.packing.block_mask import block_mask
from deltatune.packing.trie import Node

__all__ = ["Block", "Layout", "Span"]

Span = tuple[int, int]
"""Consecutive rows: the first, and the one behind the last."""

CALL = 4096
"""What a call of the attention function costs beside its scores, in scores (a query and a key). Measured on a CPU."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that attend in one call."""

    start: int
    stop: int
    before: tuple[Span, ...]
    """The rows before ``start`` that some of them see, in order."""
    joined: tuple[Block, ...] = ()
    """The blocks that this one stands for; none if it is a node."""

    @property
    def is_chain(self) -> bool:
        """Whether each row sees all of ``before`` and the rows up to itself, as within one node."""
        return not self.joined

    @property
    def chains(self) -> tuple[Block, ...]:
        """Its nodes, a block each."""
        return self.joined or (self,)

    @property
    def own(self) -> Span:
        """Its rows."""
        return self.start, self.stop

    @property
    def queries(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    @property
    def cost(self) -> int:
        """What it takes to attend, in scores."""
        return CALL + self.queries * (sum(stop - start for start, stop in self.before) + self.queries)


class Lengths(NamedTuple):
    """Texts one after the other, each with keys of its own."""

    queries: list[int]
    """How many rows each has."""
    keys: list[int]
    """How many rows each sees, its own at the end."""
    rows: Tensor
    """The rows that are seen, text by text."""


class Layout:
    """Who attends to whom among the rows of a packed batch, on the device of the batch.

    Args:
        blocks: the blocks of all rows, in order.
        reach: for each row the row behind its node's subtree, ``[rows]``: row i sees row j if ``j <= i < reach[j]``.
        depth: for each row the tokens of its text before it, ``[rows]``.
        deepest: the most of ``depth``.
        texts: for each text the rows that its tokens are in, in order. Default: not told.
    """

    def __init__(
        self,
        blocks: tuple[Block, ...],
        reach: Tensor,
        depth: Tensor,
        deepest: int,
        texts: tuple[tuple[Span, ...], ...] = (),
    ) -> None:
        self.blocks, self.reach, self.depth, self.deepest, self.texts = blocks, reach, depth, deepest, texts
        self._masks: dict[tuple[Any, ...], Any] = {}
        """Masks are made at the first layer that needs them, for all."""

    @classmethod
    def of(cls, nodes: Sequence[Node]) -> Layout:
        """The layout of a trie."""
        depth = torch.cat([torch.arange(node.depth, node.depth + node.length) for node in nodes])
        return cls(_blocks(nodes), _reach(nodes), depth, int(depth.max()), _texts(nodes))

    def rows_of_texts(self) -> list[list[int]]:
        """For each text the rows that its tokens are in, in order."""
        return [[row for span in spans for row in range(*span)] for spans in self.texts]

    def to(self, device: torch.device | str, **kwargs: Any) -> Layout:
        """The same on ``device``."""
        if self.reach.device == torch.device(device):
            return self
        reach, depth = (each.to(device, **kwargs) for each in (self.reach, self.depth))
        return Layout(self.blocks, reach, depth, self.deepest, self.texts)

    def mask(
        self,
        block: Block,
        front: int = 0,
        window: int | None = None,
        *,
        plain_too: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor | None:
        """What is added to the scores of a block, ``[1, 1, queries, keys]``; ``None`` for plain causality.

        Zero where a row sees a key, else minus infinity. Attention kernels that are given a yes or no make such a
        tensor of it and keep one for each layer; this one is the same for all.

        Args:
            block: one of the blocks.
            front: how many learned keys stand before all others; every row sees them.
            window: see only keys less than so many tokens back. Default: all.
            plain_too: write plain causality out as well. Default: false.
            dtype: of the scores.
        """
        if window is not None and self.deepest < window:
            window = None
        plain = block.is_chain and not block.before and not front and window is None
        if plain and not plain_too:
            return None
        wanted = (block.start, front, window, dtype)
        if wanted not in self._masks:
            seen = F.pad(self._seen(block, window), (front, 0), value=True)[None, None]
            self._masks[wanted] = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
        mask: Tensor = self._masks[wanted]
        return mask

    @cached_property
    def lengths(self) -> Lengths:
        """The nodes as texts one after the other, the rows of its ancestors in front of each."""
        chains = [block for whole in self.blocks for block in whole.chains]
        spans = [(*block.before, block.own) for block in chains]
        device = self.reach.device
        return Lengths(
            queries=[block.queries for block in chains],
            keys=[sum(stop - start for start, stop in each) for each in spans],
            rows=torch.cat([torch.arange(*span, device=device) for each in spans for span in each]),
        )

    def rule(self, front: int = 0, window: int | None = None) -> Any:
        """Who sees whom as flex attention takes it: a ``BlockMask`` over all rows. The arguments are a mask's."""
        wanted = ("rule", front, window)
        if wanted not in self._masks:
            self._masks[wanted] = block_mask(self.reach, self.depth, front, window)
        return self._masks[wanted]

    def _seen(self, block: Block, window: int | None) -> Tensor:
        device = self.reach.device
        row = torch.arange(*block.own, device=device)[:, None]
        key = torch.cat([torch.arange(*span, device=device) for span in (*block.before, block.own)])
        seen = (key <= row) & (row < self.reach[key])
        return seen if window is None else seen & (self.depth[row] - self.depth[key] < window)


def _reach(nodes: Sequence[Node]) -> Tensor:
    stops = [node.stop for node in nodes]
    for number in range(len(nodes) - 1, -1, -1):
        parent = nodes[number].parent
        if parent is not None:
            stops[parent] = max(stops[parent], stops[number])
    return torch.tensor(stops).repeat_interleave(torch.tensor([node.length for node in nodes]))


def _texts(nodes: Sequence[Node]) -> tuple[tuple[Span, ...], ...]:
    spans: dict[int, list[Span]] = {}
    for node in nodes:
        for text in node.texts:
            spans.setdefault(text, []).append((node.start, node.stop))
    return tuple(_merged(spans[text]) for text in sorted(spans))


def _blocks(nodes: Sequence[Node]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for node in nodes:
        block = Block(node.start, node.stop, _ancestors(nodes, node))
        while blocks and (joined := _joined(blocks[-1], block)) is not None:
            blocks.pop()
            block = joined
        blocks.append(block)
    return tuple(blocks)


def _ancestors(nodes: Sequence[Node], node: Node) -> tuple[Span, ...]:
    spans: list[Span] = []
    while node.parent is not None:
        node = nodes[node.parent]
        spans.append((node.start, node.stop))
    return _merged(reversed(spans))


def _joined(a: Block, b: Block) -> Block | None:
    """Two neighbours as one, if that costs less."""
    before = _merged(sorted({*a.before, *(span for span in b.before if span[0] < a.start)}))
    before = tuple((start, min(stop, a.start)) for start, stop in before)
    joined = Block(a.start, b.stop, before, (*a.chains, *b.chains))
    return joined if joined.cost <= a.cost + b.cost else None


def _merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Ordered spans, those that touch or overlap as one."""
    out: list[Span] = []
    for start, stop in spans:
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return tuple(out)
