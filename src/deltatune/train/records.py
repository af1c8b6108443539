"""Reading training data: rows of a file, or of memory, become typed records that remember where they came from.

Two tables hold all there is to know: `READERS` (how a file suffix yields rows) and `FORMATS` (which fields a row must
have and what they build). A bad record never stops the reading: all are counted and reported together, in one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from deltatune.errors import ConfigError, DataError
from deltatune.train.examples import Example, Fields, RecordError, kind
from deltatune.train.formats import FORMATS, Format
from deltatune.train.readers import SHOWN, Origin, Source, open_source

__all__ = ["Record", "read_records"]

SET = "set format or columns (in a run's YAML data.format, data.columns)"


@dataclass(frozen=True, slots=True)
class Record:
    """One example and where it was read."""

    example: Example
    origin: Origin


def read_records(
    source: Source, *, format: str | None = None, columns: Mapping[str, str] | None = None
) -> list[Record]:
    """Read and check every record of a file or of an iterable of dicts.

    Args:
        source: a path to .jsonl, .json (one array), .csv, .tsv or .parquet, or rows in memory: a list of dicts, a
            `datasets.Dataset`.
        format: a name in `FORMATS`; by default the one that the first record's fields fit. All records must share it.
        columns: the user's names for our fields, e.g. `{"prompt": "question"}`; by default they are the same.

    Raises:
        DataError: the source can not be read, holds no records, fits no format or more than one, or holds bad records.
        ConfigError: `format` or a key of `columns` is unknown.
    """
    chosen = _named_format(format)
    columns = _checked_columns(columns or {})
    name, rows = open_source(source)
    records: list[Record] = []
    problems: list[str] = []
    for origin, row in rows:
        try:
            fields = _renamed(_mapping(row), columns)
            chosen = chosen or _detect(fields, origin)
            records.append(Record(_build(chosen, fields, columns), origin))
        except RecordError as problem:
            problems.append(f"{origin}: {problem}")
    if problems:
        _raise(problems, chosen)
    if not records:
        raise DataError(f"{name}: no records; expected at least one; check that this is the right source")
    return records


def _raise(problems: list[str], chosen: Format | None) -> NoReturn:
    rest = len(problems) - SHOWN
    shown = "; ".join(problems[:SHOWN]) + (f"; and {rest} more bad records" if rest > 0 else "")
    expected = f"the format {chosen}" if chosen else f"one of the formats {_all_formats()}"
    raise DataError(f"{shown}; expected {expected}; correct the records, or {SET}")


def _build(chosen: Format, fields: Fields, columns: Mapping[str, str]) -> Example:
    missing = [f for f in chosen.required if f not in fields]
    if not missing:
        return chosen.build(fields)
    other = next((f for f in FORMATS.values() if _fits(f, fields)), None)
    if other:
        raise RecordError(f"a record of the format {other.name} among records of the format {chosen.name}")
    names = " and ".join(repr(columns.get(f, f)) for f in missing)
    raise RecordError(f"field {names} is missing" if len(missing) == 1 else f"fields {names} are missing")


def _fits(candidate: Format, fields: Fields) -> bool:
    return all(f in fields for f in candidate.required)


def _detect(fields: Fields, origin: Origin) -> Format:
    fitting = [f for f in FORMATS.values() if _fits(f, fields)]
    # A `text` beside other fields is most often a rendering of them, as in the published alpaca data.
    fitting = [f for f in fitting if f.name != "text"] or fitting
    if len(fitting) > 1:
        names = " and ".join(f.name for f in fitting)
        raise DataError(f"{origin}: its fields fit the formats {names}; expected one; {SET}")
    if not fitting:
        found = ", ".join(repr(str(f)) for f in fields) or "none"
        expected = f"expected one of the formats {_all_formats()}"
        raise DataError(f"{origin}: fits no format, its fields are {found}; {expected}; {SET}")
    return fitting[0]


def _all_formats() -> str:
    return ", ".join(map(str, FORMATS.values()))


def _named_format(name: str | None) -> Format | None:
    if name is not None and name not in FORMATS:
        raise ConfigError(f"format: {name!r} is unknown; expected one of {', '.join(FORMATS)}; choose one or leave out")
    return None if name is None else FORMATS[name]


def _checked_columns(columns: Mapping[str, str]) -> Mapping[str, str]:
    known = sorted({name for f in FORMATS.values() for name in f.required + f.optional})
    for ours in columns:
        if ours not in known:
            hint = "give {our name: name in the data}"
            raise ConfigError(f"columns: {ours!r} is no field of ours; expected some of {', '.join(known)}; {hint}")
    return columns


def _renamed(fields: Fields, columns: Mapping[str, str]) -> Fields:
    if not columns:
        return fields
    taken = {*columns, *columns.values()}  # all names at once, so that two fields can be swapped
    kept = {name: value for name, value in fields.items() if name not in taken}
    return kept | {ours: fields[theirs] for ours, theirs in columns.items() if theirs in fields}


def _mapping(row: object) -> Fields:
    if isinstance(row, RecordError):
        raise row
    if not isinstance(row, Mapping):
        raise RecordError(f"a record should be an object of named fields, found {kind(row)}")
    return row
