"""What data sets say of their databases, in files laid out as they are published, with words of our own."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from deltatune.apps.sql.about import About, read_abouts
from deltatune.apps.sql.source import open_source
from deltatune.errors import DataError


def database(file: Path, *statements: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return file


def comments(file: Path, about: About) -> dict[str, dict[str, str]]:
    with open_source(file, about=about, values=False) as source:
        return {
            table.name: {"": table.comment} | {column.name: column.comment for column in table.columns}
            for table in source.schema.tables
        }


def test_spiders_natural_names(tmp_path: Path) -> None:
    entry = {
        "db_id": "shop",
        "table_names_original": ["Itm"],
        "table_names": ["item"],
        "column_names_original": [[-1, "*"], [0, "Prc"], [0, "nm"], [0, "Sold_On"]],
        "column_names": [[-1, "*"], [0, "price"], [0, "name"], [0, "sold on"]],
    }
    (tmp_path / "tables.json").write_text(json.dumps([entry]))
    file = database(
        tmp_path / "database" / "shop" / "shop.sqlite", "CREATE TABLE Itm (Prc REAL, nm TEXT, Sold_On DATE)"
    )
    for split in ("dev", "test"):
        found = read_abouts(tmp_path, "spider", split)
        assert comments(file, found["shop"]) == {"Itm": {"": "item", "Prc": "price", "nm": "name", "Sold_On": ""}}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
def test_birds_descriptions(tmp_path: Path, encoding: str) -> None:
    home = tmp_path / "dev_databases" / "bank"
    file = database(home / "bank.sqlite", "CREATE TABLE loan (amt REAL, st TEXT)")
    (home / "database_description").mkdir()
    (home / "database_description" / "loan.csv").write_bytes(
        (
            "original_column_name,column_name,column_description,data_format,value_description\n"
            'amt ,amount,"amount\nin €",real,\n'
            "st,status,,text,A: paid\n"
        ).encode(encoding)
    )
    found = read_abouts(tmp_path, "bird", "dev")
    assert comments(file, found["bank"]) == {"loan": {"": "", "amt": "amount in €", "st": "status; A: paid"}}


def test_a_table_of_wikisql_is_a_database_with_headers(tmp_path: Path) -> None:
    entry = {"id": "1-10-2", "header": ["Name", "Goals"], "types": ["text", "real"], "page_title": "Ann's season"}
    (tmp_path / "dev.tables.jsonl").write_text(json.dumps(entry) + "\n")
    file = database(
        tmp_path / "dev.db",
        "CREATE TABLE table_1_10_2 (col0 TEXT, col1 REAL)",
        "INSERT INTO table_1_10_2 VALUES ('ann', 3)",
        "CREATE TABLE table_1_10_3 (col0 TEXT)",
        "INSERT INTO table_1_10_3 VALUES ('bob')",
    )
    about = read_abouts(tmp_path, "wikisql", "dev")["1-10-2"]
    assert comments(file, about) == {"table_1_10_2": {"": "Ann's season", "col0": "Name", "col1": "Goals"}}
    with open_source(file, name="1-10-2", about=about) as source:
        assert [(match.table, match.value) for match in source.matches("ann and bob", 9)] == [("table_1_10_2", "ann")]


@pytest.mark.parametrize("content", ["[{", "[{}]", "{}", "[7]"])
def test_files_of_another_form_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tables.json").write_text(content)
    if content == "{}":
        assert read_abouts(tmp_path, "spider", "dev") == {}
        return
    with pytest.raises(DataError, match="expected descriptions as spider publishes them, found"):
        read_abouts(tmp_path, "spider", "dev")


@pytest.mark.parametrize("layout", ["spider", "bird", "wikisql", "bull"])
def test_no_files_say_nothing(tmp_path: Path, layout: str) -> None:
    assert read_abouts(tmp_path, layout, "dev") == {}
