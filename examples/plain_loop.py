"""A training loop of your own: attach, one call for the methods' hooks, then plain PyTorch.

python examples/plain_loop.py
"""

from __future__ import annotations

import torch

import deltatune as dt
from deltatune.demo.task import examples
from deltatune.train.collate import Collator
from deltatune.train.encode import encode_records
from deltatune.train.records import read_records


def main(steps: int = 10) -> list[float]:
    """Train a few steps on the demo's notes; returns the losses."""
    torch.manual_seed(0)
    base = dt.load_base("smollm2", dtype="float32")
    dt.attach(base.model, dt.LoRA(r=8, targets="all_linear", lr_ratio=4))
    print(dt.summary(base.model))

    data = encode_records(read_records(examples("train", size=4 * steps)), base.tokenizer)
    collate = Collator.of(base.tokenizer)
    optimizer = torch.optim.AdamW(dt.parameter_groups(base.model, lr=1e-3))
    dt.on_step(base.model, optimizer, total_steps=steps)  # whatever the methods do around a step happens from here on

    losses = []
    base.model.train()
    for step in range(steps):
        loss = base.model(**collate(data.examples[4 * step : 4 * step + 4])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        print(f"step {step + 1}: loss {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
