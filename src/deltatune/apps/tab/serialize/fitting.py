"""Fitting a serializer to a table: kinds of columns, their information, permutations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from deltatune.apps.tab.columns import ColumnInfo, columns_of
from deltatune.apps.tab.serialize.cells import NUMERIC, numbers_of, words_of
from deltatune.apps.tab.serialize.fitted import FittedSerializer
from deltatune.apps.tab.serialize.information import information
from deltatune.apps.tab.serialize.permute import Bins, Words, cycle, permuted_numbers, permuted_words
from deltatune.apps.tab.serialize.serializer import Serializer
from deltatune.apps.tab.serialize.template import parse_template
from deltatune.errors import ConfigError, DataError

__all__ = ["fit"]


def fit(settings: Serializer, frame: pd.DataFrame, labels: Sequence[Any] | None) -> FittedSerializer:
    """Fit a serializer. See `Serializer.fit`."""
    if labels is not None and len(labels) != len(frame):
        raise DataError(f"labels: expected one for each of {len(frame)} rows, found {len(labels)}; give all")
    columns = columns_of(
        frame, names=settings.names, units=settings.units, kinds=settings.kinds, missing=settings.missing_spellings
    )
    _check_known("formats", settings.formats, columns)
    if settings.template is not None:
        said = parse_template(settings.template).columns
        _check_known("template", said, columns)
        columns = tuple(c if str(c.name) in said else replace(c, left_out="not in the template") for c in columns)
    if labels is not None and len(frame):
        columns = _ranked(settings, columns, frame, labels)
    rng = np.random.default_rng(settings.seed)
    if settings.permute == "names":
        columns = _renamed(columns, rng)
    permuted = _permuted(settings, columns, frame, rng) if settings.permute == "values" else {}
    return FittedSerializer(settings, columns, permuted)


def _check_known(setting: str, names: Iterable[str], columns: Sequence[ColumnInfo]) -> None:
    known = [str(column.name) for column in columns]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{setting}: expected columns among {', '.join(known)}, found {unknown[0]!r}; correct it")


def _ranked(
    settings: Serializer, columns: Sequence[ColumnInfo], frame: pd.DataFrame, labels: Sequence[Any]
) -> tuple[ColumnInfo, ...]:
    numeric = [column.kind in NUMERIC for column in columns]
    cells: list[Sequence[Any]] = [
        numbers_of(frame, column, settings).tolist() if is_number else words_of(frame, column, settings)
        for column, is_number in zip(columns, numeric, strict=True)
    ]
    found = information(cells, numeric, list(labels))
    return tuple(replace(column, information=nats) for column, nats in zip(columns, found, strict=True))


def _renamed(columns: Sequence[ColumnInfo], rng: np.random.Generator) -> tuple[ColumnInfo, ...]:
    """Columns under each other's names; the unit goes with the name, which it would tell."""
    taken = (columns[at] for at in cycle(len(columns), rng))
    return tuple(replace(c, said=other.said, unit=other.unit) for c, other in zip(columns, taken, strict=True))


def _permuted(
    settings: Serializer, columns: Sequence[ColumnInfo], frame: pd.DataFrame, rng: np.random.Generator
) -> dict[str, Words | Bins]:
    if settings.images is not None:
        return dict(settings.images)
    found: dict[str, Words | Bins] = {}
    for column in columns:
        if column.kind in NUMERIC:
            numbers = numbers_of(frame, column, settings)
            if len(there := numbers[np.isfinite(numbers)]):
                found[str(column.name)] = permuted_numbers(there, rng)
        else:
            words = ["no", "yes"] if column.kind == "flag" else words_of(frame, column, settings)
            found[str(column.name)] = permuted_words([word for word in words if word is not None], rng)
    return found
