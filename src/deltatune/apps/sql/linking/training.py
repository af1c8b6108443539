"""Training the cross-encoder on questions whose queries are known."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

import deltatune as dt
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.linking.cross_encoder import CrossEncoder
from deltatune.apps.sql.linking.gold import gold, schema_of
from deltatune.apps.sql.linking.pieces import Piece
from deltatune.apps.sql.schema import Database, Selection
from deltatune.attachment.stacks import in_mode
from deltatune.errors import ConfigError
from deltatune.train.rounds import rounds, up_and_down

__all__ = ["Training", "focal_loss", "train"]

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Training:
    """How to train a linker.

    Args:
        steps: of the optimiser.
        batch: questions a step.
        negatives: tables a question that its query does not use, drawn anew each time; ``None`` for all of them.
        columns: of each table in one sequence, those that the query uses and others drawn anew; ``None`` for all. A
            part of a schema is read sooner, and can not be learned by heart.
        lr: the highest learning rate; it rises over the first tenth of the steps and falls to zero.
        gamma: how much less what is already right counts in the focal loss. Default: 2, as in FinSQL.
        alpha: the weight of what belongs to the answer; the rest weighs 1 − alpha. Default: 0.75, as there.
        seed: of the order and what is drawn.
    """

    steps: int = 560
    batch: int = 4
    negatives: int | None = 3
    columns: int | None = 6
    lr: float = 2e-3
    gamma: float = 2.0
    alpha: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"training: expected {name} above 0, found {getattr(self, name)}; set a larger one")
        for name in ("negatives", "columns"):
            if (number := getattr(self, name)) is not None and number < 0:
                raise ConfigError(f"training: expected {name} from 0, found {number}; correct it")
        if not 0 < self.alpha < 1 or self.gamma < 0:
            raise ConfigError(
                f"training: expected 0 < alpha < 1 and gamma from 0, found {self.alpha} and {self.gamma}; correct them"
            )


@dataclass(frozen=True, slots=True)
class _Pair:
    """A question with a piece of a table, and what of it belongs to the answer."""

    question: str
    piece: Piece
    table: bool
    columns: tuple[bool, ...]


def train(
    linker: CrossEncoder,
    examples: Sequence[Example],
    schemas: Mapping[str, Database],
    training: Training | None = None,
    *,
    console: Console | None = None,
) -> list[float]:
    """Train a linker in place.

    Args:
        linker: fresh, or to be trained on.
        examples: questions with the queries that answer them.
        schemas: the databases that they are about, by name.
        training: how. Default: `Training()`.
        console: where a bar is shown. Default: nowhere.

    Returns:
        The loss of each step.

    Raises:
        ConfigError: there are no examples.
        DataError: a query does not parse, or its schema is missing.
    """
    training = training or Training()
    if not examples:
        raise ConfigError("training: expected examples, found none; give some")
    asked = [_asked(example, schemas) for example in examples]
    model = linker.base.model
    linker.delta.unfreeze()
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, training.lr))
    hooks = dt.on_step(model, optimizer, total_steps=training.steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: up_and_down(step, training.steps))
    losses: list[float] = []
    try:
        with in_mode(model, training=True), torch.random.fork_rng(devices=[]), _bar(console) as bar:
            torch.manual_seed(training.seed)
            task = bar.add_task("", total=training.steps, loss="")
            for batch in _drawn(asked, training):
                pairs = [pair for each, part in batch for pair in _pairs(linker, each, part)]
                losses.append(_step(linker, pairs, training))
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
                bar.update(task, advance=1, loss=f"loss {losses[-1]:.4f}")
    finally:
        hooks.remove()
        linker.delta.freeze()
    return losses


def focal_loss(logits: Tensor, wanted: Tensor, *, gamma: float = 2.0, alpha: float = 0.75) -> Tensor:
    r"""The loss of each decision (Lin et al. 2017, https://arxiv.org/abs/1708.02002).

    .. math:: -\alpha_t (1 - p_t)^\gamma \log p_t

    where p_t is the probability of what is wanted, and α_t is α where it is one and 1 − α where it is zero.

    Args:
        logits: any shape.
        wanted: zeros and ones, in the same shape.
        gamma: 0 for weighted cross-entropy.
        alpha: the weight of the ones.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    weight = torch.where(wanted > 0.5, alpha, 1 - alpha)
    return weight * (1 - (-cross_entropy).exp()) ** gamma * cross_entropy


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question, its database, and what of it belongs to the answer."""

    question: str
    schema: Database
    wanted: Selection


def _asked(example: Example, schemas: Mapping[str, Database]) -> _Asked:
    schema = schema_of(example, schemas)
    return _Asked(example.question, schema, gold(example, schema))


def _drawn(asked: Sequence[_Asked], training: Training) -> Iterator[list[tuple[_Asked, Database]]]:
    """The questions of each step, every one once before any comes again, each with a part of its schema."""
    rng = random.Random(training.seed)
    for taken in rounds(asked, training.batch, training.steps, rng):
        yield [(each, _part(each, training, rng)) for each in taken]


def _part(asked: _Asked, training: Training, rng: random.Random) -> Database:
    """The tables and columns that the query uses among some that it does not."""
    used = [table for table in asked.schema.tables if table.name in asked.wanted]
    others = [table for table in asked.schema.tables if table.name not in asked.wanted]
    tables = []
    for table in [*used, *_some(others, training.negatives, rng)]:
        kept = [column for column in table.columns if column.name in asked.wanted.get(table.name, ())]
        rest = [column for column in table.columns if column not in kept]
        free = None if training.columns is None else max(0, training.columns - len(kept))
        chosen = [*kept, *_some(rest, free, rng)]
        tables.append(replace(table, columns=tuple(rng.sample(chosen, len(chosen)))))
    return replace(asked.schema, tables=tuple(tables))


def _some(items: Sequence[_Item], count: int | None, rng: random.Random) -> Sequence[_Item]:
    return items if count is None else rng.sample(items, min(count, len(items)))


def _pairs(linker: CrossEncoder, asked: _Asked, part: Database) -> Iterator[_Pair]:
    for piece in linker.pieces(part):
        used = asked.wanted.get(piece.table)
        columns = tuple(span.column in (used or ()) for span in piece.spans)
        # A piece of a wide table without any of the columns asked for tells nothing of the table.
        yield _Pair(asked.question, piece, used is not None and (any(columns) or not used), columns)


def _step(linker: CrossEncoder, pairs: Sequence[_Pair], training: Training) -> float:
    """Put the gradients of the mean loss in place, a bounded batch at a time."""
    tables, columns = len(pairs), sum(len(pair.columns) for pair in pairs)
    total = 0.0
    for batch in linker.batches([(pair.question, pair.piece) for pair in pairs]):
        part = [pairs[n] for n in batch]
        scores = linker.score([(pair.question, pair.piece) for pair in part])
        loss = _loss(scores.tables, [pair.table for pair in part], training) / tables
        loss = loss + _loss(scores.columns, [each for pair in part for each in pair.columns], training) / columns
        loss.backward()
        total += loss.item()
    return total


def _loss(logits: Tensor, wanted: Sequence[bool], training: Training) -> Tensor:
    target = torch.tensor(wanted, dtype=logits.dtype, device=logits.device)
    return focal_loss(logits, target, gamma=training.gamma, alpha=training.alpha).sum()


def _bar(console: Console | None) -> Progress:
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        console=console,
        disable=console is None,
    )
