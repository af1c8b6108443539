"""Attach, save, load and one training step, next to Hugging Face PEFT, on SmolLM2-135M in float32.

Times come from one process in which the two sides take turns; peak memory from a process for each side. The last column
is PEFT's figure over ours: above 1, deltatune is faster or smaller.
"""

from __future__ import annotations

import copy
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deltatune.io.bases import load_base
from sides import SIDES, TARGETS, Side, batch, step

ROUNDS, STEPS = 5, 5


def main(argument: str | None = None) -> dict[str, Any]:
    """All figures: milliseconds and MiB, medians, and PEFT's over ours."""
    if argument is not None:
        return peak_memory(*argument.split("/"))
    peaks = {targets: memory(targets) for targets in TARGETS}  # first: a child counts its parent's memory as its own
    base = load_base("smollm2", dtype="float32").model
    sides = {name: make() for name, make in SIDES.items()}
    return {targets: {**timed(base, sides, targets), "peak memory MiB": peaks[targets]} for targets in TARGETS}


def timed(base: Any, sides: dict[str, Side], targets: str) -> dict[str, dict[str, float]]:
    """Each action's median milliseconds a side, the sides taking turns."""
    actions: dict[str, dict[str, list[float]]] = {}

    def clock(action: str, side: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        actions.setdefault(f"{action} ms", {}).setdefault(side, []).append(1e3 * (time.perf_counter() - start))
        return result

    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(ROUNDS):
            for name, side in sides.items():
                place = Path(folder) / f"{name}-{round_}"
                own = copy.deepcopy(base)
                made = clock("attach", name, side.attach, own, TARGETS[targets])
                clock("save", name, side.save, made, place)
                clock("load", name, side.load, copy.deepcopy(base), place)
    models, optimizers = {}, {}
    for name, side in sides.items():
        own = copy.deepcopy(base)
        models[name] = side.model(own, side.attach(own, TARGETS[targets])).train()
        optimizers[name] = torch.optim.AdamW([p for p in own.parameters() if p.requires_grad], lr=1e-4)
    inputs = batch(base.config.vocab_size)
    for name, model in models.items():  # warm-up
        step(model, optimizers[name], inputs)
    for _ in range(STEPS):
        for name, model in models.items():
            clock("step", name, step, model, optimizers[name], inputs)
    return {action: summary(times) for action, times in actions.items()}


def memory(targets: str) -> dict[str, float]:
    """Peak resident memory of a few steps, each side in a process of its own."""
    peaks = {}
    for name in SIDES:
        command = [sys.executable, __file__, f"{name}/{targets}"]
        peaks[name] = [json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["MiB"]]
    return summary(peaks)


def peak_memory(name: str, targets: str) -> dict[str, float]:
    """Of this process, after three steps of one side."""
    base = load_base("smollm2", dtype="float32").model
    side = SIDES[name]()
    model = side.model(base, side.attach(base, TARGETS[targets])).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    inputs = batch(base.config.vocab_size)
    for _ in range(3):
        step(model, optimizer, inputs)
    return {"MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def summary(figures: dict[str, list[float]]) -> dict[str, float]:
    """The median of each side, and the ratio of the medians."""
    medians = {name: round(statistics.median(values), 1) for name, values in figures.items()}
    return {**medians, "peft / deltatune": round(medians["peft"] / medians["deltatune"], 2)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:]), indent=2))
