"""An end to answers that go round in circles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

__all__ = ["LoopsEnd"]

LONGEST = 24
"""Tokens of a stretch that is repeated."""
TIMES = 3
LEAST = 24
"""Tokens that have to be said in a loop: short stretches, such as the zeros of a number, are repeated for longer."""


class LoopsEnd(StoppingCriteria):
    """Ends the answers that say one stretch of tokens again and again, which a small model does to no end.

    The rest of a batch need not wait for them. One object serves one call of `generate`.
    """

    def __init__(self) -> None:
        self._prompt: int | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Whether each row is over, ``[rows]``."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1] - 1  # the first token is written already
        written = input_ids[:, self._prompt :]
        over = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for stretch in range(1, LONGEST + 1):
            last = max(TIMES * stretch, LEAST)
            if written.shape[1] >= last:
                end = written[:, -last:]
                over |= (end[:, stretch:] == end[:, :-stretch]).all(dim=1)
        return over
