"""Training with compiled layers next to the same training without.

SmolLM2-135M in float32, LoRA of rank 8, AdamW; packed batches of 8 texts of 75 to 290 tokens with answers of 15 to 50,
so that each has another length. *plain* is `dt.Trainer`'s path as it is, with its lean backward pass; *compiled* is
what `torch_compile=True` makes of it. They take turns; figures are medians of steps after the first, which compiles,
and *plain / this* is of CPU seconds, batch by batch. *warm-up* is how long compiling took with nothing in the
compiler's cache on disk, *warm-up again* the same with what the first has left there, as in a second run. That the
losses agree is checked.

    python benchmarks/compiled.py        # ten batches
    python benchmarks/compiled.py 5
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import torch

import deltatune as dt
from cases import CASES
from deltatune.packing.packed import Packed, pack
from deltatune.train.compiled import Compilation, compiled
from deltatune.train.savings import Savings
from starts import METHODS, base_of

AGREE = 1e-4
"""How far the losses may be apart, relatively."""


def main(steps: str = "10") -> dict[str, Any]:
    """The figures of each method."""
    batches = [pack(batch) for batch in CASES["mixed lengths, LoRA q,v"].batches(1 + int(steps))]
    figures = {}
    for method in ("lora q,v", "lora all linear"):
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            torch.compiler.reset()
            figures[method] = compared(method, batches)
    return figures


def compared(method: str, batches: list[Packed]) -> dict[str, dict[str, float]]:
    """Both sides start alike and see the same batches, one after the other."""
    model = base_of(method).model
    dt.attach(model, METHODS[method][1])
    plain, ours = Side(model), Side(copy.deepcopy(model))
    first, *rest = batches
    packing = dt.Packing()
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "compiled": []}
    with Savings(packing=packing).on(plain.model):
        plain.step(first)
        with Savings(packing=packing, lean=False, compiles=True).on(ours.model), compiled(ours.model) as compilation:
            ours.step(first)
            warm_up = compilation.seconds
            for batch in rest:
                (expected, *without), (loss, *within) = plain.step(batch), ours.step(batch)
                if abs(loss - expected) > AGREE * abs(expected):
                    raise SystemExit(f"expected a loss of {expected}, found {loss}")
                taken["plain"].append((without[0], without[1]))
                taken["compiled"].append((within[0], within[1]))
        again = compiled_again(ours, first)
    ratios = [theirs / own for (_, theirs), (_, own) in zip(*taken.values(), strict=True)]
    rows = {name: row(times) for name, times in taken.items()}
    rows["compiled"] |= {
        "plain / this": round(statistics.median(ratios), 3),
        "warm-up": round(warm_up, 1),
        "warm-up again": round(again.seconds, 1),
        "graphs": compilation.graphs,
        "compiled again": compilation.recompiled,
        "lengths": len({batch.rows for batch in batches}),
    }
    return rows


def compiled_again(side: Side, batch: Packed) -> Compilation:
    """What compiling takes when its cache is full."""
    torch.compiler.reset()
    with Savings(packing=dt.Packing(), lean=False, compiles=True).on(side.model), compiled(side.model) as compilation:
        side.step(batch)
    return compilation


def row(times: list[tuple[float, float]]) -> dict[str, float]:
    """The figures of one side."""
    wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
    return {"seconds": round(wall, 3), "CPU seconds": round(processor, 3)}


class Side:
    """A model and its optimiser."""

    def __init__(self, model: Any) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(dt.parameter_groups(model, lr=1e-4))

    def step(self, batch: Packed) -> tuple[float, float, float]:
        """Its loss, and the seconds of the wall and of the processor."""
        began, worked = time.perf_counter(), time.process_time()
        loss = self.model(packed=batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), time.perf_counter() - began, time.process_time() - worked


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
