"""Which examples go together into a batch: so many, or as many tokens as there is room for; alike beginnings together.

Batches are drawn anew in each epoch, from a seed and the epoch's number alone, so that a resumed run meets the same
ones. An epoch always has the same number of them: schedules count steps.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch.utils.data import Sampler

from deltatune.errors import DataError
from deltatune.packing.trie import alike

__all__ = ["Batches"]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Examples that stay together, and the tokens they take."""

    members: tuple[int, ...]
    cost: int


class Batches(Sampler[list[int]]):
    """A batch sampler for packed batches.

    Args:
        texts: the token ids of each example.
        batch_size: how many examples a batch has.
        max_tokens: how many tokens a batch may have, after sharing, in place of ``batch_size``. Default: ``None``.
        group: from 0, examples in random order, to 1, batches filled with examples that begin alike as far as there
            are any. What begins alike is run once, but what is learned at a step then is less of a mixture, as with
            any order that is not random. Default: 0.
        least: how many tokens examples must share to count as alike.
        share: whether what they share runs once, and counts once for ``max_tokens``. Default: true.
        processes: how many processes share the batches; an epoch has a multiple of so many. Default: 1.
        seed: of the order. Default: 0.
        epoch: answers the epoch's number whenever one begins. Default: counts by itself.

    Raises:
        DataError: an example has more than ``max_tokens`` tokens.
    """

    batch_size: None = None
    """How many examples a batch has is not known."""

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        batch_size: int,
        *,
        max_tokens: int | None = None,
        group: float = 0.0,
        least: int = 16,
        share: bool = True,
        processes: int = 1,
        seed: int = 0,
        epoch: Callable[[], int] | None = None,
    ) -> None:
        self.seed, self.drawn = seed, 0
        self.epoch = epoch
        lengths = [len(text) if max_tokens else 1 for text in texts]
        self.room = max_tokens or batch_size
        long = [number for number, length in enumerate(lengths) if length > self.room]
        if long:
            raise DataError(
                f"max_tokens: example {long[0]} has {lengths[long[0]]} tokens, expected at most {self.room} "
                f"({len(long)} of {len(texts)} have more); raise max_tokens or set max_length"
            )
        self.chunks = [_Chunk((number,), length) for number, length in enumerate(lengths)]
        if group:
            shared = share and max_tokens is not None
            self.chunks = _joined(self.chunks, texts, max(1, round(group * self.room)), least, shared=shared)
        self.count = _fewest(self.chunks, self.room, processes)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.drawn if self.epoch is None else self.epoch()
        self.drawn = epoch + 1
        rng = random.Random(f"{self.seed} {epoch}")
        for disorder in (math.inf, 1.0, 0.3, 0.1, 0.0):  # a random order may not fit; longest first does
            batches = _spread(_shuffled(self.chunks, disorder, rng), self.count)
            if max(cost for cost, _ in batches) <= self.room:
                break
        order = [members for _, members in batches]
        rng.shuffle(order)
        for members in order:
            yield rng.sample(members, len(members))


def _shuffled(chunks: Sequence[_Chunk], disorder: float, rng: random.Random) -> list[_Chunk]:
    """Longest first, but for some disorder: at 0 only among those of one length, at infinity altogether."""
    shuffled = rng.sample(chunks, len(chunks))
    if math.isinf(disorder):
        return shuffled
    return sorted(shuffled, key=lambda chunk: -chunk.cost * math.exp(disorder * rng.gauss(0, 1)))


def _spread(chunks: Sequence[_Chunk], count: int) -> list[tuple[int, list[int]]]:
    """The chunks in ``count`` batches, each put where there is least so far: costs and members."""
    heap: list[tuple[int, int]] = [(0, number) for number in range(count)]
    batches: list[list[int]] = [[] for _ in range(count)]
    for chunk in chunks:
        cost, number = heapq.heappop(heap)
        batches[number] += chunk.members
        heapq.heappush(heap, (cost + chunk.cost, number))
    return [(cost, batches[number]) for cost, number in heap]


def _fewest(chunks: Sequence[_Chunk], room: int, processes: int) -> int:
    """The fewest batches, a multiple of ``processes``, in which the chunks fit, longest first."""
    ordered = sorted(chunks, key=lambda chunk: -chunk.cost)
    steps = math.ceil(math.ceil(sum(chunk.cost for chunk in chunks) / room) / processes)
    while (count := steps * processes) <= len(chunks):
        if max(cost for cost, _ in _spread(ordered, count)) <= room:
            return count
        steps += 1
    raise DataError(
        f"training data: expected batches for {processes} processes, found examples for {len(chunks)} at most; "
        "use fewer processes or lower group"
    )


def _joined(
    singles: Sequence[_Chunk], texts: Sequence[Sequence[int]], room: int, least: int, *, shared: bool
) -> list[_Chunk]:
    """Neighbours in the order of their tokens together, as long as they begin alike and fit in ``room``.

    If ``shared``, each costs what it adds to the one before it: in this order that makes the size of their trie, at
    most, for of what it has in common with others a rest shorter than ``least`` may run again.
    """
    chunks: list[_Chunk] = []
    last: Sequence[int] = ()
    for single in sorted(singles, key=lambda single: list(texts[single.members[0]])):
        text = texts[single.members[0]]
        common = alike(last, text)
        added = single.cost - (max(0, common - (least - 1)) if shared else 0)
        if chunks and common >= least and chunks[-1].cost + added <= room:
            chunks[-1] = _Chunk(chunks[-1].members + single.members, chunks[-1].cost + added)
        else:
            chunks.append(single)
        last = text
    return chunks
