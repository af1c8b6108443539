"""From settings to what training needs: the base with its deltas on, and the data as tokens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from deltatune.attachment.bank import find_bank
from deltatune.attachment.stacks import learned_positions
from deltatune.errors import ConfigError, DataError
from deltatune.io.bases import Base, load_base
from deltatune.io.quantised import quantise
from deltatune.train.config import DataSpec, RunConfig
from deltatune.train.encode import EncodedSet, Kind, encode_records
from deltatune.train.examples import Labeled
from deltatune.train.labels import LabelSet
from deltatune.train.records import Record, read_records

if TYPE_CHECKING:
    from deltatune.attachment.delta import Delta

__all__ = ["KINDS", "Records", "Setup", "encode", "open_base", "read_data", "read_split", "set_up"]

KINDS: dict[str, Kind] = {"causal-lm": "causal", "seq2seq-lm": "seq2seq", "sequence-classification": "classification"}
"""What a base is loaded for, to how its data are encoded."""


@dataclass(frozen=True)
class Records:
    """The data of a run, read and split."""

    train: list[Record]
    eval: list[Record]
    labels: LabelSet | None
    """The classes, if the records have labels."""


@dataclass(frozen=True)
class Setup:
    """A run that is ready to start."""

    config: RunConfig
    """The settings, with the classes that were found in the data."""
    base: Base
    deltas: tuple[Delta, ...]
    train: EncodedSet
    eval: EncodedSet | None


def set_up(config: RunConfig, *, shapes_only: bool = False) -> Setup:
    """Read the data, load the base, attach the deltas and encode the data.

    Args:
        config: the settings of the run.
        shapes_only: leave the weights out, which is faster and takes no memory; the model then can not run.

    Raises:
        DeltaError: what any of these steps refuses.
    """
    from transformers import set_seed

    import deltatune as dt

    records = read_data(config)
    if records.labels is not None:
        data = config.data.model_copy(update={"labels": records.labels.names})
        config = config.model_copy(update={"data": data})
    set_seed(config.train.seed)  # fresh heads and deltas start at random
    base = open_base(config, records.labels, shapes_only=shapes_only)
    deltas = tuple(dt.attach(base.model, spec.build(), name=spec.name) for spec in config.attached)
    train = encode(records.train, base, config.data, records.labels)
    evaluated = encode(records.eval, base, config.data, records.labels) if records.eval else None
    return Setup(config, base, deltas, train, evaluated)


def read_data(config: RunConfig) -> Records:
    """Read the data of a run and split off what is for evaluation, the same for the same seed.

    Raises:
        DataError: a file can not be read, or holds nothing to train or to evaluate on.
    """
    data = config.data
    train, evaluated = _read(data.train, data), _read(data.eval, data) if data.eval else []
    labels = _labels(train, data)
    if data.eval_share:
        count = max(1, round(len(train) * data.eval_share))
        if count >= len(train):
            raise DataError(f"data.eval_share: {data.eval_share} of {len(train)} records leaves none to train on")
        chosen = set(random.Random(config.train.seed).sample(range(len(train)), count))
        evaluated = [record for i, record in enumerate(train) if i in chosen]
        train = [record for i, record in enumerate(train) if i not in chosen]
    return Records(train, evaluated, labels)


def read_split(config: RunConfig) -> list[Record]:
    """The records a run was evaluated on.

    Raises:
        DataError: it had none.
    """
    records = read_data(config).eval
    if not records:
        raise DataError("data: expected evaluation data in the run's settings, found none; name a file")
    return records


def _read(path: str, data: DataSpec) -> list[Record]:
    return read_records(path, format=data.format, columns=data.columns)[: data.limit]


def _labels(records: Sequence[Record], data: DataSpec) -> LabelSet | None:
    if data.labels is not None:
        return LabelSet(data.labels)
    if all(isinstance(record.example, Labeled) for record in records):
        return LabelSet.of(records)
    return None


def open_base(config: RunConfig, labels: LabelSet | None, *, shapes_only: bool = False) -> Base:
    """Load the base of a run, for classification if there are labels and nothing else was asked for.

    Raises:
        ConfigError: the base can not be loaded, or is for something that can not be trained here.
    """
    spec = config.base
    task = "sequence-classification" if spec.task == "auto" and labels is not None else spec.task
    classes = labels if task == "sequence-classification" else None
    base = load_base(
        spec.model,
        task=task,
        dtype=spec.dtype,
        quant=None if shapes_only else spec.quant,
        device="meta" if shapes_only else spec.device,
        id2label=None if classes is None else dict(enumerate(classes.names)),
        revision=spec.revision,
        attn_implementation=spec.attn_implementation,
        trust_remote_code=spec.trust_remote_code,
        offload=spec.offload and not shapes_only,
    )
    if shapes_only and spec.quant is not None:
        quantise(base.model, spec.quant)
    if base.task not in KINDS:
        raise ConfigError(
            f"base {spec.model!r}: expected a task among {', '.join(KINDS)}, found {base.task}; set base.task"
        )
    return base


def encode(records: Sequence[Record], base: Base, data: DataSpec, labels: LabelSet | None) -> EncodedSet:
    """Encode records as the data settings say.

    Raises:
        DataError: they do not suit the base, or teach nothing.
    """
    return encode_records(
        records,
        base.tokenizer,
        kind=KINDS[base.task],
        max_length=_max_length(base, data),
        on_overflow=data.on_overflow,
        chat=data.chat,
        labels=labels if base.task == "sequence-classification" else None,
    )


def _max_length(base: Base, data: DataSpec) -> int | None:
    """The tokens an example may have: as the settings or the tokenizer say, else what the model has positions for."""
    learned = learned_positions(base.model)
    if learned is not None:
        learned -= _rows_in_front(base.model)
    if data.max_length is not None:
        if learned is not None and data.max_length > learned:
            raise ConfigError(
                f"data.max_length: expected up to {learned:,}, the positions that {base.source!r} has learned "
                f"and no delta takes, found {data.max_length:,}; lower it"
            )
        return data.max_length
    limit = base.tokenizer.model_max_length
    if limit < 10**9:  # beyond that: a tokenizer without limit
        return learned if learned is not None and learned < limit else None
    positions = getattr(base.model.config, "max_position_embeddings", None)
    return learned or (positions if isinstance(positions, int) and positions > 0 else None)


def _rows_in_front(model: nn.Module) -> int:
    """How many positions the deltas of a model take before the text, in the stack where they take most."""
    taken = Counter[str]()
    for delta in find_bank(model) or ():
        taken.update({site: part.positions for site, part in delta.items()})
    return max(taken.values(), default=0)
