"""Reading public Text-to-SQL data sets as they are published: a folder in, examples out.

    Spider   {train_spider,train_others,dev,test}.json, {database,test_database}/<id>/<id>.sqlite
    BIRD     {train,dev}.json, {train,dev}_databases/<id>/<id>.sqlite, or a folder train or dev that holds them
    WikiSQL  {train,dev,test}.jsonl, .tables.jsonl and .db
    BULL     {train,dev}.json, here or in BULL-en or BULL-cn, and database_{en,cn}/<id>/<id>.sqlite

What they say of their databases (Spider's tables.json, BIRD's database_description, WikiSQL's headers) is read by
:mod:`deltatune.apps.sql.about`.

A bad record does not stop the reading: all are counted and reported together, by file and record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.errors import ConfigError, DataError

__all__ = ["LAYOUTS", "read_dataset", "wikisql_table"]

SHOWN = 3  # bad records that a message names
AGGREGATES: tuple[type[exp.AggFunc] | None, ...] = (None, exp.Max, exp.Min, exp.Count, exp.Sum, exp.Avg)
CONDITIONS = (exp.EQ, exp.GT, exp.LT)
Record = Mapping[str, Any]


class _BadRecord(Exception):
    """What is wrong with a record."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A file of records, and how one of them becomes an example."""

    path: Path
    build: Callable[[Record], Example]


def read_dataset(folder: str | Path, layout: str, split: str = "train") -> list[Example]:
    """Read one split of a public data set.

    Args:
        folder: where it was unpacked.
        layout: "spider", "bird", "wikisql" or "bull".
        split: "train", "dev" or "test", as far as the data set has it.

    Raises:
        ConfigError: the layout is unknown, or the folder has no such split.
        DataError: a file is no JSON, or records lack something; it names file and record.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout: expected one of {', '.join(LAYOUTS)}, found {layout!r}; choose one of them")
    folder = Path(folder)
    sources = [source for source in LAYOUTS[layout](folder, split) if source.path.is_file()]
    if not sources:
        wanted = ", ".join(dict.fromkeys(source.path.name for source in LAYOUTS[layout](folder, split)))
        raise ConfigError(
            f"{folder}: expected {wanted or f'a split other than {split!r}'}, found none; check the folder"
        )
    found: list[Example] = []
    problems: list[str] = []
    for source in sources:
        for number, record in enumerate(_records(source.path), start=1):
            try:
                found.append(source.build(record))
            except _BadRecord as problem:
                problems.append(f"{source.path.name}, record {number}: {problem}")
    if problems:
        rest = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(f"{'; '.join(problems[:SHOWN])}{rest}; correct or remove the records")
    return found


def _records(path: Path) -> Iterator[Record]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path.name}: expected JSON, found {error}; download the file anew") from None
    if not isinstance(rows, list):
        raise DataError(f"{path.name}: expected a list of records, found {type(rows).__name__}; check the file")
    yield from rows


def _text(record: Record, *names: str) -> str:
    """The text under the first of several names that the record has."""
    if not isinstance(record, Mapping):
        raise _BadRecord(f"expected an object, found {type(record).__name__}")
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    raise _BadRecord(f"expected text in {' or '.join(names)}, found none")


def _file(folders: tuple[Path, ...], name: str) -> Path | None:
    """The database of that name in the first folder that has it; published examples often come without."""
    files = (folder / name / f"{name}{suffix}" for folder in folders for suffix in (".sqlite", ".db"))
    return next((file for file in files if file.is_file()), None)


def _plain(
    folders: tuple[Path, ...], *, sql: tuple[str, ...], database: tuple[str, ...]
) -> Callable[[Record], Example]:
    def build(record: Record) -> Example:
        name = _text(record, *database)
        return Example(
            question=_text(record, "question"),
            sql=_text(record, *sql),
            database=name,
            path=_file(folders, name),
            difficulty=str(record.get("difficulty") or ""),
            evidence=str(record.get("evidence") or "").strip(),
        )

    return build


def _spider(folder: Path, split: str) -> list[_Source]:
    files = {"train": ("train_spider.json", "train_others.json"), "dev": ("dev.json",), "test": ("test.json",)}
    places = ("test_database", "database") if split == "test" else ("database",)
    build = _plain(tuple(folder / place for place in places), sql=("query",), database=("db_id",))
    return [_Source(folder / name, build) for name in files.get(split, ())]


def _bird(folder: Path, split: str) -> list[_Source]:
    found = []
    for home in (folder, folder / split):
        build = _plain((home / f"{split}_databases",), sql=("SQL",), database=("db_id",))
        found.append(_Source(home / f"{split}.json", build))
    return found


def _bull(folder: Path, split: str) -> list[_Source]:
    found = []
    for home, languages in ((folder, ("en", "cn")), (folder / "BULL-en", ("en",)), (folder / "BULL-cn", ("cn",))):
        places = tuple(base / f"database_{language}" for base in (home, folder) for language in languages)
        build = _plain(places, sql=("sql_query", "query"), database=("db_name", "db_id"))
        found.append(_Source(home / f"{split}.json", build))
    return found


def _wikisql(folder: Path, split: str) -> list[_Source]:
    tables: dict[str, Record] = {}

    def build(record: Record) -> Example:
        if not tables:
            tables.update({_text(table, "id"): table for table in _records(_present(folder / f"{split}.tables.jsonl"))})
        name, question = _text(record, "table_id"), _text(record, "question")
        if name not in tables:
            raise _BadRecord(f"expected a table of {split}.tables.jsonl, found {name!r}")
        file = folder / f"{split}.db"
        query = _wikisql_query(record.get("sql"), tables[name])
        return Example(question, query.sql(dialect="sqlite"), name, file if file.is_file() else None)

    return [_Source(folder / f"{split}.jsonl", build)]


def wikisql_table(number: str) -> str:
    """What the published databases call the table of that id."""
    return "table_" + number.replace("-", "_")


def _wikisql_query(parts: Any, table: Record) -> exp.Select:
    """The published databases name a table after its id, its columns by number, and hold text in small letters."""
    try:
        width = len(table["types"])
        column, aggregate = _column(parts["sel"], width), AGGREGATES[parts["agg"]]
        query = exp.select(aggregate(this=column) if aggregate else column)
        query = query.from_(exp.to_table(wikisql_table(table["id"])))
        for place, operator, value in parts["conds"]:
            meant = value.lower() if isinstance(value, str) else value
            query = query.where(CONDITIONS[operator](this=_column(place, width), expression=exp.convert(meant)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise _BadRecord(f"expected sel, agg and conds in sql that fit the table, found {error!r}") from None
    return query


def _column(place: int, width: int) -> exp.Column:
    if not 0 <= place < width:
        raise IndexError(f"column {place} of {width}")
    return exp.column(f"col{place}")


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path.parent}: expected {path.name}, found none; check the folder")
    return path


LAYOUTS: dict[str, Callable[[Path, str], list[_Source]]] = {
    "spider": _spider,
    "bird": _bird,
    "wikisql": _wikisql,
    "bull": _bull,
}
