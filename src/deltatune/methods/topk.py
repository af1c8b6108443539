"""The k largest entries over many tensors together, without joining or sorting them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from deltatune.errors import DataError

__all__ = ["shares", "top_k"]

__all__ = ["top_k"]

CHUNK = 2**22
"""How many entries are looked at together; this bounds the memory that is needed beside the tensors."""
DIGIT = 16
"""Bits that one pass over the tensors settles."""
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def top_k(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """The places of the ``k`` largest entries over all ``scores``: for each tensor ascending indices into it, flat.

    Exactly ``k``: among equal entries the first ones count. The k-th largest value is found digit by digit, by
    counting: floating-point numbers that are not negative are in the order of their bits.

    Args:
        scores: not negative, of one dtype, on any devices; on the meta device each gives its share.
        k: how many, at most as many as there are.

    Raises:
        DataError: a score is NaN or infinite.
    """
    if any(score.is_meta for score in scores):
        counts = shares([score.numel() for score in scores], k)
        return [torch.empty(count, dtype=torch.long, device="meta") for count in counts]
    for score in scores:
        for bits in _bits(score):
            if bool((bits >= _bits_of(torch.inf, score.dtype)).any()) or bool((bits < 0).any()):
                raise DataError("scores: expected finite numbers from 0, found others; check the data and the model")
    threshold, ties = _kth_largest(scores, k)
    chosen: list[Tensor] = []
    for score in scores:
        flat = _integers(score)
        larger, equal = torch.nonzero(flat > threshold).flatten(), torch.nonzero(flat == threshold).flatten()[:ties]
        ties -= len(equal)
        chosen.append(torch.cat([larger, equal]).sort().values)
    return chosen


def shares(sizes: Sequence[int], k: int) -> list[int]:
    """``k`` shared out in proportion to ``sizes``."""
    ends = [round(k * end / sum(sizes)) for end in itertools.accumulate(sizes)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _kth_largest(scores: Sequence[Tensor], k: int) -> tuple[int, int]:
    """The k-th largest entry, as an integer, and how many entries of that value are among the k."""
    width = 8 * scores[0].element_size()
    found, needed = 0, k  # the digits so far, and how many of the k begin with them
    for shift in range(width - DIGIT, -1, -DIGIT):
        counts = torch.zeros(2**DIGIT, dtype=torch.int64)
        for score in scores:
            for bits in _bits(score):
                if shift + DIGIT < width:
                    bits = bits[bits >> (shift + DIGIT) == found]
                digits = bits >> shift & (2**DIGIT - 1)
                counts += torch.bincount(digits.long(), minlength=2**DIGIT).cpu()
        from_above = counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_above, needed))
        digit = 2**DIGIT - 1 - place
        needed -= int(from_above[place] - counts[digit])
        found = found << DIGIT | digit
    return found, needed


def _integers(score: Tensor) -> Tensor:
    return score.reshape(-1).view(INTEGERS[score.element_size()])


def _bits(score: Tensor) -> Iterator[Tensor]:
    yield from _integers(score).split(CHUNK)


def _bits_of(value: float, dtype: torch.dtype) -> int:
    return int(_integers(torch.tensor([value], dtype=dtype)))
