"""The limit of a training step: the products with weight matrices that it can not do without, at the machine's rate.

As a program it is a worker, see `turns`, that measures this rate on the shapes of a model; `starts` prints the sizes.

    python benchmarks/limit.py SIZES
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from cases import Batch, distinct, supervised
from turns import Turns

ROWS = 1500
"""Tokens of a product when the rate is measured, about a step's."""


def flops(size: dict[str, Any], batch: Batch, *, causal: bool) -> float:
    """Floating-point operations of the products with matrices in a step.

    A frozen matrix takes a product forward and one for the gradient of its input, a trained one a third. Every token
    runs once, a shared prefix of a causal model too; the head only on what is learned. Attention is left out.
    """
    tokens = distinct(batch) if causal else sum(len(example["input_ids"]) for example in batch)
    frozen = sum(height * width for height, width in size["shapes"])
    return float((4 * frozen + 6 * size["low rank"]) * tokens + 4 * size["head"] * supervised(batch))


def measure(size: dict[str, Any]) -> None:
    """Multiply by each different shape of the model, forward and backward, once a turn."""
    import torch

    shapes = sorted({tuple(shape) for shape in size["shapes"]})
    weights = [torch.randn(shape) for shape in shapes]
    inputs = [torch.randn(ROWS, width) for _, width in shapes]
    work = sum(4 * ROWS * height * width for height, width in shapes)
    turns = Turns()
    rate = 0.0
    while True:
        turns.take(**{"GFLOP/s": rate})
        rate = 0.0
        for _ in range(3):
            start = time.perf_counter()
            for x, weight in zip(inputs, weights, strict=True):
                (x @ weight.T) @ weight
            rate = max(rate, 1e-9 * work / (time.perf_counter() - start))


if __name__ == "__main__":
    measure(json.loads(sys.argv[1]))
