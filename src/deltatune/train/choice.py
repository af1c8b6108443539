"""What a trainer saves in its steps: what was asked for, and what model, data and processes allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import transformers
from torch import nn

from deltatune.attachment.bank import unwrap
from deltatune.errors import ConfigError
from deltatune.packing.label_only import offset_of
from deltatune.packing.path import why_not
from deltatune.packing.settings import Packing
from deltatune.packing.texts import is_text
from deltatune.sizes import parse_size
from deltatune.train.collate import Collator
from deltatune.train.compiled import why_not_compiled
from deltatune.train.savings import Savings

__all__ = ["Choice"]

CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
"""What the training arguments call it, new and old."""


class Choice:
    """Chooses for one trainer, once its arguments and data are known."""

    def __init__(self, trainer: transformers.Trainer) -> None:
        self.trainer, self.args = trainer, trainer.args
        model: Any = trainer.model
        self.base: nn.Module = unwrap(model)
        self.is_sharded: bool = trainer.is_fsdp_enabled

    def savings(
        self, packing: Packing | bool | None, *, lean: bool, budget: int | str | None, trunk: bool | str | Path
    ) -> Savings:
        """What is saved; the arguments are those of ``dt.Trainer``.

        Raises:
            ConfigError: something was asked for that is not possible, or not together with the rest.
        """
        if self.trainer.train_dataset is None:
            return Savings(lean=False)
        if self.args.n_gpu > 1:  # copies of a model in one process would share the deltas of the first
            raise ConfigError(
                f"train: expected a process for each GPU, found one for {self.args.n_gpu}; start it with accelerate "
                "launch, or set CUDA_VISIBLE_DEVICES=0 to use one"
            )
        chosen = self._packing(packing)
        limit = self._limit(budget)
        if trunk and self.is_sharded:
            raise ConfigError("cache_trunk: expected whole weights in each process, found FSDP; leave one of them out")
        offset = offset_of(self.base) if chosen is None and packing is not False and self._may_be_tried() else None
        compiles = self.args.torch_compile and (chosen is not None or offset is not None)
        if compiles:
            self._refuse_beside_compiling({"memory_budget": limit is not None, "cache_trunk": bool(trunk)})
        folder = Path(str(self.args.output_dir)) / "trunk" if trunk is True else trunk and Path(trunk)
        return Savings(
            packing=chosen,
            offset=offset,
            smoothing=self.args.label_smoothing_factor,
            lean=lean and not compiles,
            compiles=compiles,
            memory_budget=limit,
            tokens=0 if limit is None else self._most_tokens(chosen),
            trunk=folder or None,
        )

    @property
    def _checkpoints(self) -> bool:
        return any(getattr(self.args, name, False) for name in CHECKPOINTING)

    def _packing(self, asked: Packing | bool | None) -> Packing | None:
        """The packing to use, if any."""
        reason = "found packing false" if asked is False else self._why_not_packed()
        if reason is None:
            return asked if isinstance(asked, Packing) else Packing()
        if asked:
            raise ConfigError(f"packing: {reason}; leave packing out to train with padding")
        example: Any = next(iter(self.trainer.train_dataset), {})  # type: ignore[arg-type]
        if isinstance(self.trainer.data_collator, Collator) and "weights" in example:
            raise ConfigError(f"weights: expected packed batches for a weight a token, but {reason}; leave them out")
        return None

    def _why_not_packed(self) -> str | None:
        collator = self.trainer.data_collator
        if not is_text(self.trainer.train_dataset):
            return "expected examples with as many labels as input_ids, found others"
        if not isinstance(collator, Collator):
            return f"expected no data_collator of another kind, found {type(collator).__name__}"
        return why_not(self.base, tried=not self.is_sharded)

    def _may_be_tried(self) -> bool:
        """Whether padded batches are ours, and a pass of the model shows what it does."""
        return isinstance(self.trainer.data_collator, Collator) and not self.is_sharded

    def _limit(self, budget: int | str | None) -> int | None:
        limit = None if budget is None else parse_size(budget, "memory_budget")
        if limit is not None and (self.is_sharded or self._checkpoints):
            found = CHECKPOINTING[0] if self._checkpoints else "FSDP"
            raise ConfigError(f"memory_budget: expected it alone, found {found} too; leave one of them out")
        return limit

    def _refuse_beside_compiling(self, more: dict[str, bool]) -> None:
        """Refuse to compile together with what breaks a graph to pieces, or goes on inside it from step to step."""
        beside = {"FSDP": self.is_sharded, "gradient checkpointing": self._checkpoints, **more}
        found = next((f"{name} too" for name, is_on in beside.items() if is_on), why_not_compiled(self.base))
        if found is not None:
            raise ConfigError(f"torch_compile: expected it alone, found {found}; leave one of them out")

    def _most_tokens(self, packing: Packing | None) -> int:
        """The most tokens that a batch of the training data can have."""
        if packing is not None and packing.max_tokens is not None:
            return packing.max_tokens
        dataset: Any = self.trainer.train_dataset
        lengths = sorted((_longest(dataset[number]) for number in range(len(dataset))), reverse=True)
        size = self.args.train_batch_size
        return size * lengths[0] if packing is None else sum(lengths[:size])


def _longest(example: Any) -> int:
    """How many tokens an example has, or of an encoder-decoder the longer one of its two texts."""
    return max(map(int, (len(example["input_ids"]), *np.shape(example.get("labels"))[:1])))
