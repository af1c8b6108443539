"""What a step of a run will take, told before its weights are there."""

from __future__ import annotations

import torch

from deltatune.planning.cost import Cost, cost_of_model
from deltatune.planning.rehearsal import Batch
from deltatune.train.config import PackingSpec
from deltatune.train.setup import Setup

__all__ = ["forecast"]


def forecast(setup: Setup) -> Cost:
    """What a step takes on a batch of the longest examples, by a rehearsal; see :mod:`deltatune.planning.rehearsal`.

    Args:
        setup: a run whose base has shapes only.
    """
    config, train = setup.config, setup.config.train
    lengths = sorted((len(example["input_ids"]) for example in setup.train.examples), reverse=True)
    longest = lengths[: train.batch_size]
    limit = train.packing.max_tokens if isinstance(train.packing, PackingSpec) else None
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return cost_of_model(
        setup.base.model,
        Batch(limit or len(longest) * longest[0], longest[0]),
        optimizer=train.optimizer,
        device="cpu" if accelerator is None or config.base.device == "cpu" else accelerator.type,
        accumulation=train.gradient_accumulation,
        savings=train.packing is not False,
        checkpoints=train.gradient_checkpointing,
    )
