"""The data of a comparison: split once, before the first run, and written out, so that all runs read the same files.

What a learning rate is chosen on is a share of the training data, or a file of its own. The evaluation data judge the
result and are not looked at before.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltatune.errors import ConfigError, DataError
from deltatune.io.atomic import atomic_files
from deltatune.train.config import DataSpec, RunConfig
from deltatune.train.examples import Labeled
from deltatune.train.labels import LabelSet
from deltatune.train.readers import open_source
from deltatune.train.records import read_records

__all__ = ["SearchData", "Splits", "split"]


@dataclass(frozen=True)
class SearchData:
    """What learning rates are judged on."""

    share: float = 0.2
    """A share of the training data, which is then not trained on."""
    file: str | None = None
    """A file, in place of it."""


@dataclass(frozen=True)
class Splits:
    """The files of the runs: `train.jsonl` and `eval.jsonl`, and for a search the two into which the first falls."""

    folder: Path
    labels: tuple[str, ...] | None
    """The classes, if the records have labels."""
    rows: Mapping[str, Sequence[Any]] = field(repr=False)
    """A file's name, without its ending, to its rows."""

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each file has."""
        return {name: len(rows) for name, rows in self.rows.items()}

    def write(self) -> None:
        """Write the files, whole or not at all; always the same ones."""
        with atomic_files(self.folder) as scratch:
            for name, rows in self.rows.items():
                lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
                (scratch / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    def data(self, spec: DataSpec, *, searching: bool) -> dict[str, Any]:
        """The `data` section of a run: `spec`, on these files."""
        names = ("search-train", "search-eval") if searching else ("train", "eval")
        train, evaluated = (str(self.folder / f"{name}.jsonl") for name in names)
        files = {"train": train, "eval": evaluated, "eval_share": 0.0, "limit": None, "labels": self.labels}
        return spec.model_dump(mode="json") | files


def split(config: RunConfig, folder: Path, search: SearchData | None) -> Splits:
    """Read the data of a config and split them, the same way for the same data and seed.

    Args:
        config: of it, the data settings and the seed.
        folder: where the files are to lie.
        search: what learning rates are judged on. `None`: none is chosen.

    Raises:
        ConfigError: there are no data to evaluate on.
        DataError: a file can not be read, or too few records are left.
    """
    data, seed = config.data, config.train.seed
    if not data.eval and not data.eval_share:
        raise ConfigError(
            "data: expected data to judge by, found none; set data.eval to a file, or data.eval_share to 0.2"
        )
    train = _rows(data.train, data)
    if data.eval:
        evaluated = _rows(data.eval, data)
    else:
        evaluated, train = _drawn(train, data.eval_share, random.Random(seed), "data.eval_share")
    files = {"train": train, "eval": evaluated}
    if search is not None and search.file is not None:
        files |= {"search-train": train, "search-eval": _rows(search.file, data)}
    elif search is not None:
        held_out, rest = _drawn(train, search.share, random.Random(f"search {seed}"), "search share")
        files |= {"search-train": rest, "search-eval": held_out}
    return Splits(folder, _labels(data), files)


def _rows(path: str, data: DataSpec) -> list[Any]:
    """The rows as they stand in the file, once all are known to be good."""
    read_records(path, format=data.format, columns=data.columns)
    return [row for _, row in open_source(path)[1]][: data.limit]


def _drawn(rows: Sequence[Any], share: float, rng: random.Random, name: str) -> tuple[list[Any], list[Any]]:
    """A share of the rows, drawn at random, and the rest."""
    count = max(1, round(len(rows) * share))
    if count >= len(rows):
        raise DataError(f"{name}: expected one that leaves data to train on, found {share} of {len(rows)}; lower it")
    chosen = set(rng.sample(range(len(rows)), count))
    return [row for i, row in enumerate(rows) if i in chosen], [row for i, row in enumerate(rows) if i not in chosen]


def _labels(data: DataSpec) -> tuple[str, ...] | None:
    """The classes of the whole training data: a part of them may not show each."""
    if data.labels is not None:
        return data.labels
    records = read_records(data.train, format=data.format, columns=data.columns)[: data.limit]
    if all(isinstance(record.example, Labeled) for record in records):
        return LabelSet.of(records).names
    return None
