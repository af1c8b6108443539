"""Saying one value: numbers without the noise of floating point, flags as yes or no, dates as days."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from deltatune.apps.tab.columns import DATE, FALSE, NO_NUMBER, TRUE, Kind

__all__ = ["number_of", "precision_of", "say", "say_number"]

DIGITS = 15  # that every decimal number keeps in double precision
SMALLEST, LARGEST = 1e-6, 1e16  # beyond them a number is said with an exponent


def say(value: Any, kind: Kind, digits: int = DIGITS) -> str | None:
    """One value in words.

    What does not fit the kind, as a later row may bring it, is said as it is.

    Args:
        value: a value that is not missing.
        kind: of its column.
        digits: significant digits of numbers.

    Returns:
        The words, or ``None`` for one that means that there is no number.
    """
    return _SAYERS.get(kind, _say_plain)(value, digits)


def number_of(value: Any) -> int | float | None:
    """The number that a value is or spells; ``None`` if it is none."""
    for cast in (int, float) if isinstance(value, (str, int, np.integer)) else (float,):
        try:
            return cast(value)
        except (TypeError, ValueError):
            continue
    return None


def say_number(number: float, digits: int = DIGITS) -> str:
    """A number without a point or zeros that say nothing.

    Args:
        number: any.
        digits: significant digits that are not noise.
    """
    if isinstance(number, int):
        return str(number)
    if not np.isfinite(number) or number == 0:
        return "0" if number == 0 else f"{number:g}"
    if SMALLEST <= abs(number) < LARGEST:
        return np.format_float_positional(number, precision=digits, unique=False, fractional=False, trim="-")
    return f"{number:.{digits}g}"


def precision_of(values: pd.Series) -> int:
    """Significant digits that a column's type keeps: fewer in single precision, whose noise begins sooner."""
    kind = getattr(values.dtype, "numpy_dtype", values.dtype)
    return np.finfo(kind).precision if isinstance(kind, np.dtype) and kind.kind == "f" else DIGITS


def _say_number(value: Any, digits: int) -> str | None:
    number = number_of(value)
    if number is not None:
        return say_number(number, digits)
    return None if str(value).strip().casefold() in NO_NUMBER else _say_plain(value, digits)


def _say_flag(value: Any, digits: int) -> str:
    word = str(value).strip().casefold()
    return "yes" if word in TRUE else "no" if word in FALSE else _say_plain(value, digits)


def _say_date(value: Any, digits: int) -> str:
    text = value.isoformat() if isinstance(value, (datetime.date, pd.Timestamp)) else str(value).strip()
    found = DATE.fullmatch(text)
    if not found:
        return _say_plain(value, digits)
    return found[1] if found[2] in (None, "00:00") else f"{found[1]} {found[2]}"


def _say_plain(value: Any, digits: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.number)):
        return say_number(value if isinstance(value, int) else float(value), digits)
    return " ".join(str(value).split())


_SAYERS: dict[Kind, Callable[[Any, int], str | None]] = {
    "integer": _say_number,
    "decimal": _say_number,
    "flag": _say_flag,
    "date": _say_date,
}
