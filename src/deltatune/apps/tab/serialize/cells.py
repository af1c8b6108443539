"""The cells of one column: as words, or as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deltatune.apps.tab.columns import ColumnInfo, present
from deltatune.apps.tab.serialize.permute import Bins, Words
from deltatune.apps.tab.serialize.serializer import Serializer
from deltatune.apps.tab.serialize.values import number_of, precision_of, say
from deltatune.errors import DataError

__all__ = ["NUMERIC", "numbers_of", "words_of"]

NUMERIC = ("integer", "decimal")


def numbers_of(frame: pd.DataFrame, column: ColumnInfo, settings: Serializer) -> npt.NDArray[np.float64]:
    """A column's cells as numbers, NaN where there is none."""
    cells = (number_of(value) if there else None for value, there in _cells(frame, column, settings))
    return np.array([np.nan if number is None else number for number in cells], dtype=float)


def words_of(
    frame: pd.DataFrame, column: ColumnInfo, settings: Serializer, permuted: Words | Bins | None = None
) -> list[str | None]:
    """A column's cells as words, without units, ``None`` where one is missing.

    Args:
        frame: the rows.
        column: the column.
        settings: how to say it.
        permuted: what becomes of its values.

    Raises:
        DataError: the rows do not have the column.
    """
    form = settings.formats.get(str(column.name))
    digits = min(settings.digits, precision_of(frame[column.name])) if column.name in frame else settings.digits
    numeric = column.kind in NUMERIC

    def word(value: Any) -> str | None:
        number = number_of(value) if numeric else None
        if number is not None and isinstance(permuted, Bins):
            value = number = permuted(number)
        if number is not None and form is not None:
            return form.format(number)
        said = say(value, column.kind, digits)
        return permuted(said) if said is not None and isinstance(permuted, Words) else said

    return [word(value) if there else None for value, there in _cells(frame, column, settings)]


def _cells(frame: pd.DataFrame, column: ColumnInfo, settings: Serializer) -> Iterator[tuple[Any, bool]]:
    """Each cell, and whether it has a value."""
    if column.name not in frame:
        raise DataError(f"table: expected a column {column.name!r}, found none; give the columns of the fitted table")
    values = frame[column.name]
    return zip(values.tolist(), present(values, settings.missing_spellings).tolist(), strict=True)
