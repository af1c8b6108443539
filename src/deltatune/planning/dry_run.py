"""A run without its weights: what it would train, on what, and what a step of it takes."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from typing import Any

import torch
from rich.console import Console

from deltatune.attachment.summary import summary
from deltatune.errors import DeltaError
from deltatune.planning.cost import Cost, cost_of_model
from deltatune.planning.rehearsal import Batch
from deltatune.sizes import parse_size, size_text
from deltatune.train.arguments import total_steps, training_arguments
from deltatune.train.config import PackingSpec, RunConfig
from deltatune.train.encode import EncodedSet
from deltatune.train.kept import layers_of
from deltatune.train.progress import print_header, print_sample
from deltatune.train.run import quiet
from deltatune.train.setup import Setup, set_up

__all__ = ["dry_run"]


def dry_run(config: RunConfig, *, console: Console | None = None) -> dict[str, Any]:
    """Do all that a run does before its first step, without the weights, and tell what it would train and take.

    Args:
        config: the settings.
        console: where to print the header and a sample. Default: standard output.

    Raises:
        DeltaError: as for `run`.
    """
    with quiet():
        args = training_arguments(config)
        setup = set_up(config, shapes_only=True)
        counted = summary(setup.base.model)
        steps = total_steps(config, args, setup.train.examples)
        console = console or Console()
        print_header(console, setup, counted, steps=steps, world=args.world_size)
        print_sample(console, setup)
        cost = _cost(setup, console)
    return {
        "base_parameters": counted.base_parameters,
        "trainable_parameters": counted.trainable_parameters,
        "share": counted.trainable_parameters / max(counted.base_parameters, 1),
        "steps": steps,
        "memory_bytes": cost and cost.total,
        "file_bytes": cost and cost.file,
        "train": _counts(setup.train),
        "eval": None if setup.eval is None else _counts(setup.eval),
    }


def _counts(data: EncodedSet) -> dict[str, int]:
    counts = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if f.name not in ("examples", "labels")}
    return {"examples": len(data.examples), **counts}


def _cost(setup: Setup, console: Console) -> Cost | None:
    train = setup.config.train
    try:
        checkpointed, cost = _as_set(setup)
    except DeltaError as error:  # it can be trained all the same
        console.print(str(error), markup=False)
        return None
    console.print(
        f"a step on the longest examples takes about {size_text(cost.total)} at its peak, "
        f"{size_text(cost.weights)} of it weights; the saved delta {size_text(cost.file)}"
    )
    if train.memory_budget is not None:
        fits = cost.total <= _budget(setup)
        layers = f"{checkpointed} of {len(layers_of(setup.base.model))} layers checkpointed"
        console.print(
            f"train.memory_budget: {layers}" + ("" if fits else ", which is not enough; make batches smaller")
        )
    uncounted = {"train.precision": train.precision != "full", "train.compile": train.compile}
    if any(uncounted.values()):
        console.print(f"not counted: what {' and '.join(name for name, on in uncounted.items() if on)} changes")
    return cost


def _as_set(setup: Setup) -> tuple[int, Cost]:
    """How many layers are checkpointed as the settings say, and what a step then takes."""
    cost = functools.cache(functools.partial(_on_the_longest, setup))
    layers = len(layers_of(setup.base.model))
    if setup.config.train.memory_budget is None:
        count = layers if setup.config.train.gradient_checkpointing else 0
    else:
        budget = _budget(setup)
        count = bisect.bisect_left(range(layers), True, key=lambda checkpointed: cost(checkpointed).total <= budget)
    return count, cost(count)


def _budget(setup: Setup) -> int:
    return parse_size(setup.config.train.memory_budget or 0, "train.memory_budget")


def _on_the_longest(setup: Setup, checkpointed: int) -> Cost:
    """What a step takes on a batch of the longest examples."""
    config, train = setup.config, setup.config.train
    lengths = sorted((len(example["input_ids"]) for example in setup.train.examples), reverse=True)
    longest = lengths[: train.batch_size]
    limit = train.packing.max_tokens if isinstance(train.packing, PackingSpec) else None
    batch = Batch(limit or len(longest) * longest[0], longest[0])
    if setup.base.task == "seq2seq-lm":
        answer = max(len(example["labels"]) for example in setup.train.examples)  # type: ignore[arg-type]
        batch = dataclasses.replace(batch, learned=answer / longest[0])
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return cost_of_model(
        setup.base.model,
        batch,
        optimizer=train.optimizer,
        device="cpu" if accelerator is None or config.base.device == "cpu" else accelerator.type,
        accumulation=train.gradient_accumulation,
        savings=train.packing is not False,
        checkpoints=checkpointed,
    )
