"""What makes a training step cheaper at the same loss and gradients, each where model and data allow it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.packing.label_only import LabelOnly
from deltatune.packing.packed import IGNORE, pack
from deltatune.packing.path import PackedModel
from deltatune.packing.settings import Packing
from deltatune.train.lean import lean
from deltatune.train.memory_budget import MemoryPlan, budgeted
from deltatune.train.trunk_cache import TrunkCache, cached_trunk

__all__ = ["Savings"]


@dataclass(frozen=True)
class Savings:
    """What a training run saves, and how."""

    packing: Packing | None = None
    """Batches without padding; ``None`` if they are padded."""
    offset: int | None = None
    """For padded batches, whose logits then are made where a label is: how far from it they are. ``None``: anywhere."""
    smoothing: float = 0.0
    """Label smoothing, which the losses of both do by themselves."""
    lean: bool = True
    """Keep less for backward; see :mod:`deltatune.train.lean`."""
    compiles: bool = False
    """Whether what runs before the head is compiled, which decides by itself what to keep; so :attr:`lean` is off."""
    memory_budget: int | None = None
    """Bytes that a step may take, with as many layers checkpointed as that asks for. ``None``: no matter."""
    tokens: int = 0
    """The most tokens of a batch, for the budget."""
    trunk: Path | None = None
    """Where to keep what the layers below all deltas answer. ``None``: nowhere."""

    @property
    def makes_loss(self) -> bool:
        """Whether the model's call answers with a loss of ours, which divides by what it is told to."""
        return self.packing is not None or self.offset is not None

    def __str__(self) -> str:
        packing, tokens = self.packing, ""
        if packing is not None and packing.max_tokens is not None:
            tokens = f" of {packing.max_tokens:,} tokens"
        if packing is None:
            batches = "padded batches"
        else:
            batches = f"batches{tokens} without padding" + (", what they share once" if packing.share else "")
        logits = ["logits where something is learned"] if self.makes_loss else []
        ways = {"lean backward pass": self.lean, "layers compiled at the first step": self.compiles}
        return "; ".join([batches, *logits, *(way for way, is_on in ways.items() if is_on)])

    @contextlib.contextmanager
    def on(self, model: nn.Module) -> Iterator[tuple[MemoryPlan | None, TrunkCache | None]]:
        """Within this context ``model`` trains so.

        Raises:
            ConfigError: the budget can not be met, or there is no trunk.
        """
        with contextlib.ExitStack() as stack:
            if self.lean:
                stack.enter_context(lean(model))
            run: Any = None
            if self.packing is not None:
                settings = {"smoothing": self.smoothing, "z_loss": self.packing.z_loss}
                stack.enter_context(PackedModel(model).taking_packed(**settings))
                run = _run_packed
            elif self.offset is not None:
                stack.enter_context(LabelOnly(model, self.offset).instead(smoothing=self.smoothing))
                run = _run_padded
            cache = None if self.trunk is None else stack.enter_context(cached_trunk(model, self.trunk))
            plan = None
            if self.memory_budget is not None:
                plan = stack.enter_context(budgeted(model, self.memory_budget, self.tokens, run=run))
            yield plan, cache


# Steps whose memory is measured. One token is learned: the logits of more are made some at a time and not kept.


def _run_packed(model: nn.Module, ids: Tensor) -> Any:
    text = ids[0].tolist()
    labels = [IGNORE] * (len(text) - 1) + text[-1:]
    return model(packed=pack([{"input_ids": text, "labels": labels}]).to(ids.device)).loss


def _run_padded(model: nn.Module, ids: Tensor) -> Any:
    labels = torch.full_like(ids, IGNORE)
    labels[:, -1] = ids[:, -1]
    return model(input_ids=ids, labels=labels).loss
