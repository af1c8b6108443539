"""Whether two queries returned the same, which is what execution accuracy counts."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import chain

from deltatune.apps.sql.run import Result

__all__ = ["plain", "same_result"]

# Sums in another order differ in the last of 15 digits, single precision in the 7th; a wrong query differs by more.
RELATIVE = 1e-6
ABSOLUTE = 1e-9  # what is left where equal values cancel out
EXACT = 1 << 63  # below it, a decimal without a fraction is an integer, as the column behind it was

Value = str | int | float | bytes | None
Column = tuple[Value, ...]


def same_result(found: Result, wanted: Result, *, ordered: bool) -> bool:
    """Whether a query returned what the right query returns, in the sense of Spider's test suites.

    Rows are compared as a multiset, and columns may stand in any order, the same in all rows; their names do not count.
    Numbers agree within 1e-6 of their size, integers exactly; a decimal is a number, a truth value 0 or 1, a date its
    ISO text, and NULL is equal to NULL. Text has to be the same to the letter.

    Where the order counts, the rows have to come in exactly the wanted order. So a right query that leaves open in
    which order equal rows come may be called wrong: the wanted query should order by enough columns to leave nothing
    open, since the rows do not tell which of them are tied.

    A result that was cut off by the limits agrees with nothing, since nobody knows what the rest is.

    Args:
        found: what the query to be judged returned.
        wanted: what the right query returned.
        ordered: whether the order of the rows is part of the answer.

    Source: Zhong, Yu and Klein 2020, "Semantic Evaluation for Text-to-SQL with Distilled Test Suites",
    https://arxiv.org/abs/2010.02840
    """
    if found.cut or wanted.cut:
        return False
    if len(found.rows) != len(wanted.rows) or len(found.columns) != len(wanted.columns):
        return False
    ours, theirs = _columns(found), _columns(wanted)
    keys = _keys(chain.from_iterable(ours + theirs))
    if ordered:
        return _same_lines(ours, theirs, keys)
    rows = list(zip(*theirs, strict=True))
    return any(
        _same_lines(list(zip(*(ours[i] for i in order), strict=True)), rows, keys)
        for order in _orders(ours, theirs, keys)
    )


def _columns(result: Result) -> list[Column]:
    return [tuple(plain(row[i]) for row in result.rows) for i in range(len(result.columns))]


def plain(value: object) -> Value:
    """One type for what the drivers give in several: see :func:`same_result`."""
    match value:
        case bool():
            return int(value)
        case Decimal() if value.is_finite() and abs(value) < EXACT and value == value.to_integral_value():
            return int(value)
        case float() | Decimal():
            number = float(value)
            return number if number == number else "nan"
        case datetime.datetime() if value.time() == datetime.time() and value.tzinfo is None:
            return value.date().isoformat()
        case None | int() | bytes():
            return value
        case _:
            return str(value)  # which is ISO for dates and times


def _close(one: Value, other: Value) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        if one == other:
            return True
        if isinstance(one, int) and isinstance(other, int):
            return False
        return abs(one - other) <= max(RELATIVE * max(abs(one), abs(other)), ABSOLUTE) < float("inf")
    return one == other


def _keys(values: Iterable[Value]) -> dict[Value, int]:
    """A number for each value, the same for equal ones; numbers share it along a run of which each is near the next."""
    numbers: set[int | float] = set()
    found: dict[Value, int] = {}
    for value in set(values):
        if isinstance(value, (int, float)):
            numbers.add(value)
        else:
            found[value] = len(found)
    count = len(found)
    last: int | float | None = None
    for number in sorted(numbers):
        count += not _close(last, number)
        found[number] = count
        last = number
    return found


def _same_lines(ours: Sequence[Column], theirs: Sequence[Column], keys: dict[Value, int]) -> bool:
    """Whether the lines, rows or columns, are the same in some order. Numbers of a long run may still be far apart."""

    def place(line: Column) -> tuple[list[int], list[float]]:
        return [keys[value] for value in line], [value for value in line if isinstance(value, (int, float))]

    pairs = zip(sorted(ours, key=place), sorted(theirs, key=place), strict=True)
    return all(_close(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def _orders(ours: Sequence[Column], theirs: Sequence[Column], keys: dict[Value, int]) -> Iterator[tuple[int, ...]]:
    """The orders of our columns in which the rows can be theirs.

    A column can only be one with the same values beside the same rest of the row, which mostly leaves a single one.
    Where several are left, they are tried one after the other, and given up as soon as the rows so far differ.
    """
    own, others = ([tuple(keys[value] for value in column) for column in columns] for columns in (ours, theirs))
    marks, wanted = _marks(own), _marks(others)
    if Counter(marks) != Counter(wanted):
        return

    def extended(order: tuple[int, ...], left: Sequence[int], right: Sequence[int]) -> Iterator[tuple[int, ...]]:
        if len(order) == len(others):
            yield order
            return
        tried: set[tuple[int, ...]] = set()
        for i, column in enumerate(own):
            if i in order or marks[i] != wanted[len(order)] or column in tried:
                continue
            tried.add(column)
            numbers: dict[tuple[int, int], int] = {}  # rows that are the same so far have the same number
            one, other = (
                [numbers.setdefault(pair, len(numbers)) for pair in zip(before, line, strict=True)]
                for before, line in ((left, column), (right, others[len(order)]))
            )
            if Counter(one) == Counter(other):
                yield from extended((*order, i), one, other)

    start = [0] * len(ours[0])
    yield from extended((), start, start)


def _marks(columns: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, tuple[int, ...]], ...]]:
    """Of each column, its values with all values of the row that each stands in, neither in any order."""
    rows = [tuple(sorted(row)) for row in zip(*columns, strict=True)]
    return [tuple(sorted(zip(column, rows, strict=True))) for column in columns]
