"""What public data sets say of their databases beside the databases: natural names, descriptions, which tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from deltatune.apps.sql.readers import wikisql_table
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.errors import DataError

__all__ = ["NOTHING_SAID", "About", "described", "read_abouts"]

Comments: TypeAlias = Mapping[tuple[str, str], str]
ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")  # BIRD's files of descriptions are of all kinds


@dataclass(frozen=True, slots=True)
class About:
    """What is said of one database.

    Args:
        comments: what tables and columns mean, by their names in small letters; that of a table under no column.
        tables: the tables of the file that are the database. Default: all.
    """

    comments: Comments = field(default_factory=dict)
    tables: tuple[str, ...] | None = None


NOTHING_SAID = About()


def described(schema: Database, about: About) -> Database:
    """The schema with what is said of its tables and columns, in place of comments that it has itself."""

    def comment(table: Table, column: Column | None) -> str:
        own = table if column is None else column
        return about.comments.get((table.name.lower(), "" if column is None else column.name.lower())) or own.comment

    tables = (
        replace(
            table,
            comment=comment(table, None),
            columns=tuple(replace(column, comment=comment(table, column)) for column in table.columns),
        )
        for table in schema.tables
    )
    return replace(schema, tables=tuple(tables))


def read_abouts(folder: str | Path, layout: str, split: str) -> dict[str, About]:
    """What a public data set says of its databases, by name; nothing where the files are not there.

    Args:
        folder: where it was unpacked.
        layout: as for :func:`deltatune.apps.sql.readers.read_dataset`.
        split: as there.

    Raises:
        DataError: a file is there and of another form.
    """
    try:
        return READERS[layout](Path(folder), split)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{folder}: expected descriptions as {layout} publishes them, found {error!r}; download them anew"
        ) from None


def _spider(folder: Path, split: str) -> dict[str, About]:
    file = folder / ("test_tables.json" if split == "test" else "tables.json")
    return _natural_names(file if file.is_file() else folder / "tables.json")


def _bull(folder: Path, split: str) -> dict[str, About]:
    homes = (folder, folder / "BULL-en", folder / "BULL-cn")
    return dict(chain.from_iterable(_natural_names(home / "tables.json").items() for home in homes))


def _natural_names(file: Path) -> dict[str, About]:
    """Spider's file: each name as the database has it, and as people say it."""
    found: dict[str, About] = {}
    for entry in _entries(file):
        own = entry["table_names_original"]
        tables = zip(own, entry["table_names"], strict=True)
        comments = {(name.lower(), ""): said for name, said in tables if _is_news(said, name)}
        columns = zip(entry["column_names_original"], entry["column_names"], strict=True)
        for (table, name), (_, said) in columns:
            if table >= 0 and _is_news(said, name):  # the first is "*", of no table
                comments[own[table].lower(), name.lower()] = said
        found[entry["db_id"]] = About(comments)
    return found


def _is_news(said: str, name: str) -> bool:
    """Whether a natural name says more than the name itself."""
    return said.lower().split() != name.lower().replace("_", " ").split()


def _bird(folder: Path, split: str) -> dict[str, About]:
    """BIRD's files: one for each table, a line for each column."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for home in (folder, folder / split):
        for file in sorted((home / f"{split}_databases").glob("*/database_description/*.csv")):
            comments = found.setdefault(file.parent.parent.name, {})
            for row in csv.DictReader(io.StringIO(_text(file), newline="")):
                name, said = (row.get("original_column_name") or "").strip(), _said(row)
                if name and said:
                    comments[file.stem.lower(), name.lower()] = said
    return {name: About(comments) for name, comments in found.items()}


def _said(row: Mapping[str, str | None]) -> str:
    """The description of a column, with what its values mean, in one line."""
    parts = [row.get("column_description") or row.get("column_name"), row.get("value_description")]
    return "; ".join(" ".join(part.split()) for part in parts if part and part.strip())


def _wikisql(folder: Path, split: str) -> dict[str, About]:
    """WikiSQL's tables: one database each, all in one file, whose columns have numbers in place of names."""
    found = {}
    for entry in _entries(folder / f"{split}.tables.jsonl"):
        table = wikisql_table(entry["id"])
        comments = {(table, f"col{number}"): str(said) for number, said in enumerate(entry["header"])}
        about = " ".join(str(entry[key]) for key in ("page_title", "section_title", "caption") if entry.get(key))
        found[entry["id"]] = About({(table, ""): about, **comments}, (table,))
    return found


def _entries(file: Path) -> Iterator[Mapping[str, Any]]:
    """The entries of a file of descriptions; none if there is no file."""
    if not file.is_file():
        return
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        yield from (json.loads(line) for line in text.splitlines() if line.strip())
    else:
        yield from json.loads(text)


def _text(file: Path) -> str:
    for encoding in ENCODINGS:
        try:
            return file.read_text(encoding=encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("every byte is a letter of latin-1")


READERS: dict[str, Callable[[Path, str], dict[str, About]]] = {
    "spider": _spider,
    "bird": _bird,
    "wikisql": _wikisql,
    "bull": _bull,
}
