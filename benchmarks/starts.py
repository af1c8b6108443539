"""Where all sides start from: one delta a method, written once in the file format that both libraries read.

Prints as JSON what `limit` has to know of each.

    python benchmarks/starts.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import deltatune as dt
from deltatune.io.bases import Base

METHODS: dict[str, tuple[str, dt.Method]] = {
    "lora q,v": ("smollm2", dt.LoRA(r=8, alpha=16, targets=("query", "value"))),
    "lora all linear": ("smollm2", dt.LoRA(r=8, alpha=16, targets=("all_linear",))),
    "dora all linear": ("smollm2", dt.DoRA(r=8, alpha=16, targets=("all_linear",))),
    "prompt": ("smollm2", dt.PromptTuning(tokens=20)),
    "classifier": ("minilm", dt.LoRA(r=8, alpha=16, targets=("query", "value"))),
}
"""Each method and the base it is for."""


def main(folder: Path) -> dict[str, dict[str, Any]]:
    """Write every delta and tell what `limit` has to know of it."""
    return {method: _write(method, folder / method) for method in METHODS}


def base_of(method: str) -> Base:
    """The base a method is for, without dropout, so that all sides compute the same."""
    torch.manual_seed(0)
    source, _ = METHODS[method]
    settings: dict[str, Any] = {"task": "sequence-classification", "num_labels": 6} if source == "minilm" else {}
    base = dt.load_base(source, dtype="float32", **settings)
    for module in base.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return base


def _write(method: str, folder: Path) -> dict[str, Any]:
    base = base_of(method)
    matrices = {name: m for name, m in base.model.named_modules() if isinstance(m, nn.Linear)}
    head = base.model.get_output_embeddings()
    inner = [m.weight for name, m in matrices.items() if "layer" in name and m is not head]
    delta = dt.attach(base.model, METHODS[method][1])
    trained = [p for p in delta.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            if not parameter.any():  # a gradient has to reach what stands in front of it
                parameter.normal_(std=0.01)
    dt.save(delta, folder)
    return {
        "shapes": [list(weight.shape) for weight in inner],
        "head": 0 if head is None else head.weight.numel(),
        "low rank": sum(p.numel() for name, p in delta.named_parameters() if "lora_" in name),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
