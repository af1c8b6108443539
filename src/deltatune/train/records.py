"""Reading training data: rows of a file, or of memory, become typed records that remember where they came from.

Two tables hold all there is to know: `READERS` (how a file suffix yields rows) and `FORMATS` (which fields a row must
have and what they build). A bad record never stops the reading: all are counted and reported together, in one line.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import NoReturn, TypeAlias

from deltatune.errors import ConfigError, DataError

__all__ = [
    "FORMATS",
    "READERS",
    "Chat",
    "Completion",
    "Example",
    "Format",
    "Labeled",
    "Message",
    "Origin",
    "Record",
    "Text",
    "read_records",
]

Fields: TypeAlias = Mapping[str, object]
Source: TypeAlias = "str | os.PathLike[str] | Iterable[Fields]"

_SHOWN = 5  # bad records spelled out in one message; the rest are counted
_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record was read: the 1-based `line` of a text file, else the 0-based `row` (as in `rows[number]`)."""

    source: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.number}"


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt (not learned) and its completion (learned)."""

    prompt: str
    completion: str
    separator: str = ""
    """What stands between the two when no chat template does; alpaca's fields, which carry none, use a blank line."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `extra` holds the other keys a template may read, such as `tool_calls` or `name`."""

    role: str
    content: str
    extra: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, of which the assistant's turns are learned; `tools` are JSON schemas for the template."""

    messages: tuple[Message, ...]
    tools: tuple[Fields, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it learned."""

    text: str


@dataclass(frozen=True, slots=True)
class Labeled:
    """A text, or a pair of texts, and its class."""

    text: str
    text_pair: str | None
    label: int | str


Example: TypeAlias = Completion | Chat | Text | Labeled


@dataclass(frozen=True, slots=True)
class Record:
    """One example and where it was read."""

    example: Example
    origin: Origin


@dataclass(frozen=True, slots=True)
class Format:
    """A way to lay out a record: the fields it must have, those it may have, and what they build."""

    name: str
    required: tuple[str, ...]
    build: Callable[[Fields], Example]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.required)})"


class _RecordError(Exception):
    """What is wrong with one record; `read_records` adds where."""


_Rows: TypeAlias = "Iterator[tuple[Origin, object]]"


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
    name, rows = _open(source)
    records: list[Record] = []
    problems: list[str] = []
    for origin, row in rows:
        try:
            fields = _renamed(_mapping(row), columns)
            chosen = chosen or _detect(fields, origin)
            records.append(Record(_build(chosen, fields, columns), origin))
        except _RecordError as problem:
            problems.append(f"{origin}: {problem}")
    if problems:
        _raise(problems, chosen)
    if not records:
        raise DataError(f"{name}: no records; expected at least one; check that this is the right source")
    return records


def _raise(problems: list[str], chosen: Format | None) -> NoReturn:
    rest = len(problems) - _SHOWN
    shown = "; ".join(problems[:_SHOWN]) + (f"; and {rest} more bad records" if rest > 0 else "")
    expected = f"the format {chosen}" if chosen else f"one of the formats {_all_formats()}"
    raise DataError(f"{shown}; expected {expected}; correct the records, or set format= or columns=")


# Formats: from fields to examples.


def _build(chosen: Format, fields: Fields, columns: Mapping[str, str]) -> Example:
    missing = [f for f in chosen.required if f not in fields]
    if not missing:
        return chosen.build(fields)
    other = next((f for f in FORMATS.values() if _fits(f, fields)), None)
    if other:
        raise _RecordError(f"a record of the format {other.name} among records of the format {chosen.name}")
    names = " and ".join(repr(columns.get(f, f)) for f in missing)
    raise _RecordError(f"field {names} is missing" if len(missing) == 1 else f"fields {names} are missing")


def _fits(candidate: Format, fields: Fields) -> bool:
    return all(f in fields for f in candidate.required)


def _detect(fields: Fields, origin: Origin) -> Format:
    fitting = [f for f in FORMATS.values() if _fits(f, fields)]
    # A `text` beside other fields is most often a rendering of them, as in the published alpaca data.
    fitting = [f for f in fitting if f.name != "text"] or fitting
    if len(fitting) > 1:
        names = " and ".join(f.name for f in fitting)
        raise DataError(f"{origin}: its fields fit the formats {names}; expected one; choose it with format=")
    if not fitting:
        found = ", ".join(repr(str(f)) for f in fields) or "none"
        expected = f"expected one of the formats {_all_formats()}"
        raise DataError(f"{origin}: fits no format, its fields are {found}; {expected}; rename them with columns=")
    return fitting[0]


def _all_formats() -> str:
    return ", ".join(map(str, FORMATS.values()))


def _text(fields: Fields, name: str, where: str = "field") -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _RecordError(f"{where} '{name}' should be a string, found {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair; a tokenizer would fail on it, far from here
        raise _RecordError(f"{where} '{name}' holds half a surrogate pair, which is no character") from None
    return value


def _optional_text(fields: Fields, name: str) -> str:
    return "" if fields.get(name) is None else _text(fields, name)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _list_of_dicts(fields: Fields, name: str) -> list[Fields]:
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        found = _kind(value) if not isinstance(value, list) else "a list of something else"
        raise _RecordError(f"field '{name}' should be a list of objects, found {found}")
    return value


def _completion(fields: Fields) -> Completion:
    return Completion(_text(fields, "prompt"), _text(fields, "completion"))


def _alpaca(fields: Fields) -> Completion:
    parts = (_text(fields, "instruction"), _optional_text(fields, "input"))
    return Completion("\n\n".join(filter(None, parts)), _text(fields, "output"), separator="\n\n")


def _messages(fields: Fields) -> Chat:
    turns = [_message(turn, f"messages[{i}]") for i, turn in enumerate(_list_of_dicts(fields, "messages"))]
    tools = _list_of_dicts(fields, "tools") if fields.get("tools") is not None else []
    return _chat(turns, "messages", tuple(tools))


def _message(turn: Fields, where: str) -> Message:
    if turn.get("weight") not in (None, 1):
        raise _RecordError(f"{where} has weight {turn['weight']!r}, and weights of single turns are not supported")
    # A turn that only calls tools has no content in the OpenAI format; every other turn must have it.
    calls_only = turn.get("tool_calls") and turn.get("content") is None
    content = "" if calls_only else _text(turn, "content", where)
    role = _role(_text(turn, "role", where), {role: role for role in _ROLES}, where)
    extra = {k: v for k, v in turn.items() if k not in ("role", "content", "weight") and v is not None}
    return Message(role, content, extra)


def _sharegpt(fields: Fields) -> Chat:
    turns = []
    for i, turn in enumerate(_list_of_dicts(fields, "conversations")):
        where = f"conversations[{i}]"
        role = _role(_text(turn, "from", where), _SHAREGPT_ROLES, where)
        turns.append(Message(role, _text(turn, "value", where)))
    return _chat(turns, "conversations")


def _role(found: str, known: Mapping[str, str], where: str) -> str:
    if found not in known:
        raise _RecordError(f"{where} has the role {reprlib.repr(found)}, known are {', '.join(known)}")
    return known[found]


def _chat(turns: list[Message], name: str, tools: tuple[Fields, ...] = ()) -> Chat:
    if not any(turn.role == "assistant" for turn in turns):
        raise _RecordError(f"field '{name}' has no assistant turn, so nothing to learn")
    return Chat(tuple(turns), tools)


def _labeled(fields: Fields) -> Labeled:
    label = fields["label"]
    if isinstance(label, Integral) and not isinstance(label, bool):  # Integral: numpy's integers too
        label = int(label)
    elif not isinstance(label, str) or not label:
        found = "an empty one" if label == "" else _kind(label)
        raise _RecordError(f"field 'label' should be a name or an int, found {found}")
    return Labeled(_text(fields, "text"), _optional_text(fields, "text_pair") or None, label)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("prompt-completion", ("prompt", "completion"), _completion),
        Format("messages", ("messages",), _messages, ("tools",)),
        Format("sharegpt", ("conversations",), _sharegpt),
        Format("alpaca", ("instruction", "output"), _alpaca, ("input",)),
        Format("classification", ("text", "label"), _labeled, ("text_pair",)),
        Format("text", ("text",), lambda fields: Text(_text(fields, "text"))),
    )
}


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
    if isinstance(row, _RecordError):
        raise row
    if not isinstance(row, Mapping):
        raise _RecordError(f"a record should be an object of named fields, found {_kind(row)}")
    return row


# Readers: from a source to rows. One that can not be parsed is yielded as its _RecordError, to be reported in turn.


def _open(source: Source) -> tuple[str, _Rows]:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return path.name, _read_file(path)
    if isinstance(source, Mapping):
        keys = ", ".join(repr(k) for k in list(source)[:_SHOWN])
        raise DataError(f"source: found a mapping with {keys}; expected rows; give one split, such as source['train']")
    if not isinstance(source, Iterable):
        raise DataError(f"source: found {_kind(source)}; expected a path or an iterable of dicts; give one of these")
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
        return _RecordError(f"not JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # an int of thousands of digits; nesting as deep
        return _RecordError(f"not JSON that can be read ({error})")


def _read_json(path: Path) -> _Rows:
    text = _utf8(path.read_bytes(), path.name)
    hint = "if it has one object a line, name it .jsonl"
    try:
        rows = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: not JSON ({error}); expected an array of objects; {hint}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path.name}: found a JSON {_kind(rows)}; expected an array of objects; {hint}")
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
        return _RecordError(f"{len(row)} fields under a header of {len(header)}")
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
