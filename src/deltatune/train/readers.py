"""Readers: how a source, which is most often a file, yields rows.

A row that can not be parsed is yielded as its `RecordError`, to be reported in turn.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from deltatune.errors import DataError
from deltatune.train.examples import Fields, RecordError, kind

__all__ = ["READERS", "SHOWN", "Origin", "Source", "open_source"]

Source: TypeAlias = "str | os.PathLike[str] | Iterable[Fields]"
_Rows: TypeAlias = "Iterator[tuple[Origin, object]]"

SHOWN = 5  # bad records, or keys, spelled out in one message; the rest are counted, or left out


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read: the 1-based `line` of a text file, else the 0-based `row` (as in `rows[number]`)."""

    source: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.number}"


def open_source(source: Source) -> tuple[str, _Rows]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return path.name, _read_file(path)
    if isinstance(source, Mapping):
        keys = ", ".join(repr(k) for k in list(source)[:SHOWN])
        raise DataError(f"source: found a mapping with {keys}; expected rows; give one split, such as source['train']")
    if not isinstance(source, Iterable):
        raise DataError(f"source: found {kind(source)}; expected a path or an iterable of dicts; give one of these")
    return "source", ((Origin("source", "row", i), row) for i, row in enumerate(source))


def _read_file(path: Path) -> _Rows:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        found = f"has the suffix {path.suffix!r}"
        raise DataError(f"{path.name}: {found}; expected one of {', '.join(READERS)}; convert or rename it")
    try:
        yield from reader(path)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: can not be read ({reason}); expected a file; check the path") from error


def _utf8(raw: bytes, name: str, first_line: int = 1) -> str:
    try:
        return raw.decode("utf-8-sig" if first_line == 1 else "utf-8")  # some editors begin files with a mark
    except UnicodeDecodeError as error:
        line = first_line + error.object.count(b"\n", 0, error.start)
        found = f"byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise DataError(f"{name}, line {line}: {found}; expected text in UTF-8; save the file as UTF-8") from error


def _read_jsonl(path: Path) -> _Rows:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            if line := _utf8(raw, path.name, number).rstrip():
                yield Origin(path.name, "line", number), _parsed(line)


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return RecordError(f"not JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # an int of thousands of digits; nesting as deep
        return RecordError(f"not JSON that can be read ({error})")


def _read_json(path: Path) -> _Rows:
    text = _utf8(path.read_bytes(), path.name)
    hint = "if it has one object a line, name it .jsonl"
    try:
        rows = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: not JSON ({error}); expected an array of objects; {hint}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path.name}: found a JSON {kind(rows)}; expected an array of objects; {hint}")
    yield from ((Origin(path.name, "row", i), row) for i, row in enumerate(rows))


def _read_delimited(path: Path, delimiter: str) -> _Rows:
    # Strict, as otherwise a quote that is never closed swallows the rest of the file without a word.
    text = io.StringIO(_utf8(path.read_bytes(), path.name), newline="")
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise DataError(f"{path.name}, line 1: two columns share a name; expected different ones; rename one")
        start = rows.line_num + 1  # a quoted field may span lines, and a record is named by its first
        for row in rows:
            if row:
                yield Origin(path.name, "line", start), _zipped(header, row)
            start = rows.line_num + 1
    except csv.Error as error:
        hint = "correct it, or save the data as .jsonl"
        raise DataError(f"{path.name}, line {rows.line_num}: {error}; expected quoted fields; {hint}") from error


def _zipped(header: list[str], row: list[str]) -> object:
    if len(row) != len(header):
        return RecordError(f"{len(row)} fields under a header of {len(header)}")
    return dict(zip(header, row, strict=True))


def _read_parquet(path: Path) -> _Rows:
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(f"{path.name}: needs pyarrow, which is not installed; run pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((Origin(path.name, "row", i), row) for i, row in enumerate(rows))
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path.name}: not a parquet file ({reason}); expected a whole one; write it again") from error


READERS: dict[str, Callable[[Path], _Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": partial(_read_delimited, delimiter=","),
    ".tsv": partial(_read_delimited, delimiter="\t"),
    ".parquet": _read_parquet,
}
