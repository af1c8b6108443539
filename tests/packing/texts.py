"""Texts that share beginnings, at random and fixed."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from deltatune.packing.packed import IGNORE

TOKEN = st.integers(0, 2)  # few, so that texts meet
TEXTS = st.lists(st.lists(TOKEN, min_size=1, max_size=12), min_size=1, max_size=8)


def examples(vocabulary: int, *, seed: int = 0, shared: int = 9) -> list[dict[str, Any]]:
    """Seven texts: three that begin alike, two of these longer, one that is the beginning of another, two alone."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(1, vocabulary, (length,), generator=generator).tolist()  # type: ignore[no-any-return]

    common = draw(shared)
    longer = common + draw(5)
    texts = [common + draw(4), longer + draw(3), longer + draw(6), longer, draw(7), draw(2), draw(30)]
    return [{"input_ids": text, "labels": _learned(text)} for text in texts]


def _learned(text: list[int]) -> list[int]:
    asked = len(text) // 3
    return [IGNORE] * asked + text[asked:]
