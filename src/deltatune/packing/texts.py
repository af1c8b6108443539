"""A data set as packed batches see it: the token ids of its examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deltatune.packing.packed import COLUMNS, Text

__all__ = ["Texts", "is_text"]


class Texts(Sequence[Sequence[int]]):
    """The token ids of a data set's examples, padding left out."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: Any) -> Any:
        return Text.of(self.dataset[number]).ids


def is_text(dataset: Any) -> bool:
    """Whether a data set has examples with a label for each token, and nothing else that a model would read."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or not len(dataset):
        return False
    example = dataset[0]
    if not isinstance(example, Mapping) or not {"input_ids", "labels"} <= example.keys() <= set(COLUMNS):
        return False
    shapes = [np.shape(example[name]) for name in ("input_ids", "labels")]
    return len(shapes[0]) == 1 and shapes[0] == shapes[1]
