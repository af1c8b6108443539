"""Training with the layers below all deltas cached on disk, next to the same training without.

SmolLM2-135M in float32, LoRA of rank 8 on query and value of the last 4 or 8 of its 30 layers, AdamW; packed batches of
8 texts of 75 to 290 tokens with answers of 15 to 50. *first epoch* runs the trunk and keeps what it answers, *later
epochs* read it. *plain* is `dt.Trainer`'s path without a cache, in turns with the later epochs; figures are medians of
steps, *disk MiB* is the size of the folder. That the losses agree is checked.

    python benchmarks/trunk.py        # five steps an epoch
    python benchmarks/trunk.py 2
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import deltatune as dt
from cases import CASES
from deltatune.packing.packed import Packed, pack
from deltatune.train.savings import Savings
from starts import base_of

EPOCHS = 3


def main(steps: str = "5") -> dict[str, Any]:
    """The figures, by how many layers have a delta."""
    batches = [pack(batch) for batch in CASES["mixed lengths, LoRA q,v"].batches(int(steps))]
    base = base_of("lora q,v").model
    return {f"LoRA in the last {last} layers": compared(copy.deepcopy(base), last, batches) for last in (4, 8)}


def compared(model: Any, last: int, batches: list[Packed]) -> dict[str, dict[str, float]]:
    """Both sides start alike and see the same batches, one after the other."""
    dt.attach(model, dt.LoRA(r=8, alpha=16, targets=("query", "value"), layers=f"last:{last}"))
    packing = dt.Packing()
    taken: dict[str, list[tuple[float, float]]] = {"plain": [], "first epoch": [], "later epochs": []}
    with tempfile.TemporaryDirectory() as folder:
        plain, cached = Side(model), Side(copy.deepcopy(model))
        with (
            Savings(packing=packing).on(plain.model),
            Savings(packing=packing, trunk=Path(folder)).on(cached.model) as (_, cache),
        ):
            for epoch in range(EPOCHS):
                for batch in batches:
                    (expected, *without), (loss, *within) = plain.step(batch), cached.step(batch)
                    if abs(loss - expected) > 1e-4 * abs(expected):
                        raise SystemExit(f"expected a loss of {expected}, found {loss}")
                    taken["plain"].append((without[0], without[1]))
                    taken["later epochs" if epoch else "first epoch"].append((within[0], within[1]))
            assert cache is not None
            cache.commit()
            disk = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
    median = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in taken.items()}
    return {
        name: {
            "seconds": round(wall, 3),
            "CPU seconds": round(processor, 3),
            "plain / this": round(median["plain"][1] / processor, 2),
            "disk MiB": 0.0 if name == "plain" else round(disk, 1),
        }
        for name, (wall, processor) in median.items()
    }


class Side:
    """A model and its optimiser."""

    def __init__(self, model: Any) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(dt.parameter_groups(model, lr=1e-4))

    def step(self, batch: Packed) -> tuple[float, float, float]:
        """One step: its loss, and the seconds it took by the wall and by the processor."""
        begun = time.perf_counter(), time.process_time()
        loss = self.model(packed=batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach()), time.perf_counter() - begun[0], time.process_time() - begun[1]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
