"""What a real data set is: a table in words, a question on each row, and an answer for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from deltatune.errors import DataError

__all__ = ["Dataset", "Field", "Recipe", "build"]


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a data set's table.

    Args:
        source: its name there.
        name: its name in ours, in words with underscores.
        unit: of its values.
        codes: the words that values stand for. Default: values are words or numbers already.
        missing: a number that stands for a missing value. Default: none does.
    """

    source: str
    name: str
    unit: str = ""
    codes: Mapping[Any, str] | None = None
    missing: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a data set is made, without its data.

    Args:
        about: what the rows are, and whose data.
        read: reads the table as it is published.
        fields: the columns to take; others are left out.
        target: the column of the class in the published table.
        classes: what the class is called here, by its value there. Rows of other classes are left out.
        question: the question on a row.
        answers: the answer for each class.
    """

    about: str
    read: Callable[[], pd.DataFrame]
    fields: tuple[Field, ...]
    target: str
    classes: Mapping[Any, str]
    question: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set.

    Args:
        name: its key in `DATASETS`.
        about: what the rows are, and whose data.
        frame: the table without the class, its columns and values in words.
        labels: the class of each row.
        question: the question on a row.
        answers: the answer for each class.
        units: of columns.
    """

    name: str
    about: str
    frame: pd.DataFrame
    labels: pd.Series
    question: str
    answers: Mapping[str, str]
    units: Mapping[str, str] = field(default_factory=dict)


def build(name: str, recipe: Recipe) -> Dataset:
    """Make a data set: read the published table, name its columns and classes, put words for codes.

    Raises:
        DataError: the table has a value that the recipe has no word for.
    """
    raw = recipe.read()
    labels = raw[recipe.target].map(recipe.classes)
    raw, labels = raw[labels.notna()], labels.dropna()
    frame = pd.DataFrame({field.name: _decoded(name, raw[field.source], field) for field in recipe.fields})
    units = {field.name: field.unit for field in recipe.fields if field.unit}
    return Dataset(
        name,
        recipe.about,
        frame.reset_index(drop=True),
        labels.reset_index(drop=True).rename("class"),
        recipe.question,
        recipe.answers,
        units,
    )


def _decoded(dataset: str, values: pd.Series, field: Field) -> pd.Series:
    if field.missing is not None:
        values = values.where(values != field.missing)
    if field.codes is None:
        return values
    words = values.map(field.codes)
    if (unknown := values[words.isna() & values.notna()]).size:
        raise DataError(
            f"{dataset}: expected a code among {list(field.codes)}, found {unknown.iloc[0]!r} in {field.source}"
        )
    return words
