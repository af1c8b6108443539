"""Training a delta on a few shots, without a validation set: how long is settled beforehand, as in TabLLM.

The paper takes 30·k/4 steps of four rows for k shots, each row thirty times. It trains IA3 on T0 with Adafactor at a
rate of 3e-3; here the default is LoRA on much smaller models, which AdamW trains well at 1e-3. The rate rises over the
first tenth of the steps and falls to zero, and the norm of gradients is clipped at 1: nobody watches a validation loss.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.attachment.stacks import in_mode
from deltatune.errors import ConfigError
from deltatune.io.bases import Base
from deltatune.methods.base import Method
from deltatune.train.rounds import rounds, up_and_down
from deltatune.train.trunk_cache import cached_trunk

__all__ = ["EPOCHS", "RowsLoss", "Scorer", "Training", "train"]

EPOCHS = 30
"""How often each shot is learned from, by default."""
MOST_KEPT = 2048
"""Shots up to which the states of the layers below a delta are kept: they take a row's tokens times the width."""
CLIP = 1.0
NAME = "tab"

RowsLoss = Callable[[Sequence[int]], Tensor]
"""The loss of some of the shots, by number, a scalar."""


class Scorer(Protocol):
    """A model that scores classes by a row's text."""

    @property
    def base(self) -> Base:
        """The model."""

    @property
    def frame(self) -> int:
        """How many tokens it reads beside those of a row's text."""

    def scores(self, texts: Sequence[str]) -> Tensor:
        """The score of each class for each row, ``[rows, classes]``."""

    def losses(self, texts: Sequence[str], codes: Sequence[int]) -> AbstractContextManager[RowsLoss]:
        """Within this context: the loss of some of these rows."""

    def examples(self, texts: Sequence[str], codes: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Rows with their classes as the model's forward pass takes them, for methods that look at data first."""


@dataclass(frozen=True, slots=True)
class Training:
    """How to train.

    Args:
        steps: of the optimiser. Default: each shot 30 times, which is the paper's 30·k/4 for a batch of four.
        batch: shots a step. Default: 4.
        learning_rate: the highest. Default: 1e-3.
        seed: of what starts at random, of the order and of dropout. Default: 0.
    """

    steps: int | None = None
    batch: int = 4
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is not None and not (isinstance(self.steps, Integral) and self.steps >= 0):
            raise ConfigError(f"steps: expected 0 or more, found {self.steps!r}; correct it")
        if not (isinstance(self.batch, Integral) and self.batch >= 1):
            raise ConfigError(f"batch_size: expected at least 1, found {self.batch!r}; raise it")
        if not (isinstance(self.learning_rate, Real) and 0 < self.learning_rate < math.inf):
            raise ConfigError(f"learning_rate: expected a number above 0, found {self.learning_rate!r}; raise it")

    def steps_for(self, shots: int) -> int:
        """How many steps there are for so many shots."""
        return math.ceil(EPOCHS * shots / self.rows(shots)) if self.steps is None else self.steps

    def rows(self, shots: int) -> int:
        """How many shots a step takes where there are so many."""
        return max(1, min(self.batch, shots))


def train(
    scorer: Scorer, texts: Sequence[str], codes: Sequence[int], method: Method, training: Training
) -> tuple[Delta, list[float]]:
    """Train a delta on a base that has none. The same seed gives the same bytes.

    Args:
        scorer: the base as it scores classes.
        texts: of the shots.
        codes: the number of each one's class.
        method: what to train.
        training: how.

    Returns:
        The delta, frozen and taken off the base again, and the loss of each step.
    """
    model = scorer.base.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        delta = dt.attach(model, method, name=NAME)
        try:
            dt.prepare(model, scorer.examples(texts, codes))
            turns = training.steps_for(len(texts)) * training.rows(len(texts)) / len(texts)
            kept = _trunk_kept(model) if turns >= 2 and len(texts) <= MOST_KEPT else contextlib.nullcontext()
            with in_mode(model, training=True), kept, scorer.losses(texts, codes) as loss:
                losses = _optimise(model, loss, training, len(texts))
        finally:
            dt.detach(model, delta)
    return delta.freeze(), losses


@contextlib.contextmanager
def _trunk_kept(model: nn.Module) -> Iterator[None]:
    """Where no delta acts in the first layers, these run once for each shot, not at each of its turns."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with contextlib.suppress(ConfigError):  # a delta acts there, or dropout: then they run as they always do
            stack.enter_context(cached_trunk(model, folder))
        yield


def _optimise(model: nn.Module, loss: RowsLoss, training: Training, shots: int) -> list[float]:
    steps = training.steps_for(shots)
    groups = dt.parameter_groups(model, training.learning_rate)
    trained = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(groups)
    dt.on_step(model, optimizer, total_steps=steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: up_and_down(step, steps))
    losses: list[float] = []
    for rows in rounds(range(shots), training.rows(shots), steps, random.Random(training.seed)):
        value = loss(rows)
        value.backward()
        nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(value.item())
    return losses
