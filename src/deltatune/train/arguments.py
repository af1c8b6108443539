"""From a run's settings to the arguments of `transformers`' trainer."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from deltatune.errors import ConfigError
from deltatune.packing.texts import Texts
from deltatune.train.config import PackingSpec, RunConfig

__all__ = ["total_steps", "training_arguments"]


def training_arguments(config: RunConfig) -> transformers.TrainingArguments:
    """The arguments of `transformers`' trainer that the settings stand for.

    Raises:
        ConfigError: `train.extra` or another setting is refused there.
    """
    train = config.train
    known = {field.name for field in dataclasses.fields(transformers.TrainingArguments) if field.init}
    checkpointing = next(n for n in ("activation_checkpointing", "gradient_checkpointing") if n in known)
    settings: dict[str, Any] = {
        "output_dir": config.output,
        "num_train_epochs": train.epochs,
        "max_steps": train.max_steps or -1,
        "per_device_train_batch_size": train.batch_size,
        "per_device_eval_batch_size": train.eval_batch_size or train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "optim": train.optimizer,
        "max_grad_norm": train.max_grad_norm,
        "seed": train.seed,
        checkpointing: train.gradient_checkpointing,
        "bf16": train.precision == "bf16",
        "fp16": train.precision == "fp16",
        "torch_compile": train.compile,
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a run that diverges should show it
        "save_strategy": "steps" if train.save_steps else "epoch",
        "save_steps": train.save_steps or 500,
        "save_total_limit": train.save_total_limit,
        "eval_strategy": ("steps" if train.eval_steps else "epoch") if _evaluates(config) else "no",
        "eval_steps": train.eval_steps,
        "report_to": train.report_to if isinstance(train.report_to, str) else list(train.report_to),
        "train_sampling_strategy": "group_by_length",  # for padded batches; packed ones draw their own
        "include_num_input_tokens_seen": "non_padding",
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": config.base.device == "cpu" or not torch.accelerator.is_available(),
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,  # deltas are used in every pass; looking for others would cost each step
    }
    for name in train.extra:
        if name not in known or name == "output_dir":
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"train.extra.{name}: expected a setting of transformers.TrainingArguments, found an unknown one; "
                + (f"did you mean {near[0]!r}?" if near else "remove it")
            )
    try:
        return transformers.TrainingArguments(**{**settings, **train.extra})
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"train: {' '.join(str(error).split())}; change the setting") from None


def _evaluates(config: RunConfig) -> bool:
    return bool(config.data.eval or config.data.eval_share)


def total_steps(config: RunConfig, args: transformers.TrainingArguments, examples: Sequence[Mapping[str, Any]]) -> int:
    """How many optimiser steps a run has.

    Args:
        config: its settings.
        args: what they stand for, `train.extra` put over them.
        examples: the training examples, encoded.

    Raises:
        DataError: an example has more tokens than a batch may have.
    """
    packing, size, world = config.train.packing, args.per_device_train_batch_size, args.world_size
    if args.max_steps > 0:
        return args.max_steps
    batches = math.ceil(len(examples) / (size * world))
    if isinstance(packing, PackingSpec) and packing.max_tokens is not None:
        batches = len(packing.build().batches(Texts(examples), size, processes=world)) // world
    steps: int = math.ceil(batches / int(args.gradient_accumulation_steps))
    return math.ceil(float(args.num_train_epochs) * max(steps, 1))
