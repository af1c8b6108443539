"""Public data sets, in folders laid out as they are published, with records of our own."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.readers import LAYOUTS, read_dataset
from deltatune.errors import ConfigError, DataError


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        path.write_text(json.dumps(content))


def put_database(path: Path, *statements: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as connection:
        for statement in statements or ("CREATE TABLE t (a)",):
            connection.execute(statement)
    connection.close()
    return path


def test_spider(tmp_path: Path) -> None:
    put(tmp_path / "train_spider.json", [{"db_id": "shop", "question": "How many?", "query": "SELECT count(*) FROM t"}])
    put(tmp_path / "train_others.json", [{"db_id": "gone", "question": "All?", "query": "SELECT * FROM t"}])
    put(tmp_path / "test.json", [{"db_id": "shop", "question": "Which?", "query": "SELECT a FROM t ORDER BY a"}])
    file = put_database(tmp_path / "database" / "shop" / "shop.sqlite")
    hidden = put_database(tmp_path / "test_database" / "shop" / "shop.sqlite")
    first, second = read_dataset(tmp_path, "spider")
    assert first == Example("How many?", "SELECT count(*) FROM t", "shop", file)
    assert second.path is None
    (test,) = read_dataset(tmp_path, "spider", "test")
    assert test.path == hidden
    assert test.ordered
    assert not first.ordered


@pytest.mark.parametrize("nested", [False, True])
def test_bird(tmp_path: Path, nested: bool) -> None:
    home = tmp_path / "dev" if nested else tmp_path
    record = {"db_id": "bank", "question": "Who?", "SQL": "SELECT a FROM t", "evidence": "a is who"}
    put(home / "dev.json", [record | {"difficulty": "simple", "question_id": 0}])
    file = put_database(home / "dev_databases" / "bank" / "bank.sqlite")
    (example,) = read_dataset(tmp_path, "bird", "dev")
    assert example == Example("Who?", "SELECT a FROM t", "bank", file, difficulty="simple", evidence="a is who")


def test_wikisql(tmp_path: Path) -> None:
    table = {"id": "1-10-2", "header": ["Name", "Goals"], "types": ["text", "real"], "rows": [["Ann", 3]]}
    put(tmp_path / "dev.tables.jsonl", [table])
    conditions = [[0, 0, "Ann O'Hara"], [1, 1, 2]]
    put(tmp_path / "dev.jsonl", [
        {"table_id": "1-10-2", "question": "How many goals?", "sql": {"sel": 1, "agg": 4, "conds": conditions}},
        {"table_id": "1-10-2", "question": "Who?", "sql": {"sel": 0, "agg": 0, "conds": []}},
    ])  # fmt: skip
    make = "CREATE TABLE table_1_10_2 (col0 TEXT, col1 REAL)"
    file = put_database(tmp_path / "dev.db", make, "INSERT INTO table_1_10_2 VALUES ('ann o''hara', 3)")
    first, second = read_dataset(tmp_path, "wikisql", "dev")
    assert first.sql == "SELECT SUM(col1) FROM table_1_10_2 WHERE col0 = 'ann o''hara' AND col1 > 2"
    assert second.sql == "SELECT col0 FROM table_1_10_2"
    assert first.path == file
    assert sqlite3.connect(file).execute(first.sql).fetchall() == [(3.0,)]


@pytest.mark.parametrize("language", ["en", "cn"])
def test_bull(tmp_path: Path, language: str) -> None:
    record = {"db_name": "ccks_fund", "question": "Which?", "sql_query": "SELECT a FROM t;"}
    put(tmp_path / f"BULL-{language}" / "train.json", [record])
    file = put_database(tmp_path / f"database_{language}" / "ccks_fund" / "ccks_fund.sqlite")
    (example,) = read_dataset(tmp_path, "bull")
    assert example == Example("Which?", "SELECT a FROM t;", "ccks_fund", file)


def test_bad_records_are_named_together(tmp_path: Path) -> None:
    good = {"db_id": "shop", "question": "How many?", "query": "SELECT 1"}
    put(tmp_path / "dev.json", [good, good | {"query": ""}, 7, good | {"db_id": None}, {}, {}])
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path, "spider", "dev")
    assert str(caught.value) == (
        "dev.json, record 2: expected text in query, found none; dev.json, record 3: expected an object, found int; "
        "dev.json, record 4: expected text in db_id, found none; and 2 more; correct or remove the records"
    )


@pytest.mark.parametrize(
    "sql",
    [None, {"sel": 5, "agg": 0, "conds": []}, {"sel": 0, "agg": 9, "conds": []}, {"sel": 0, "agg": 0, "conds": [[0]]}],
)
def test_a_bad_query_of_wikisql_is_named(tmp_path: Path, sql: object) -> None:
    put(tmp_path / "train.tables.jsonl", [{"id": "1", "header": ["A"], "types": ["text"]}])
    put(tmp_path / "train.jsonl", [{"table_id": "1", "question": "What?", "sql": sql}])
    with pytest.raises(DataError, match=r"train\.jsonl, record 1: expected sel, agg and conds in sql"):
        read_dataset(tmp_path, "wikisql")


def test_an_unknown_table_of_wikisql_is_named(tmp_path: Path) -> None:
    put(tmp_path / "train.tables.jsonl", [{"id": "1", "types": ["text"]}])
    put(tmp_path / "train.jsonl", [{"table_id": "2", "question": "What?", "sql": {}}])
    with pytest.raises(DataError, match=r"record 1: expected a table of train\.tables\.jsonl, found '2'"):
        read_dataset(tmp_path, "wikisql")


def test_files_that_are_no_records_are_named(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text("[{")
    with pytest.raises(DataError, match=r"dev\.json: expected JSON, found"):
        read_dataset(tmp_path, "bird", "dev")
    put(tmp_path / "dev.json", {"data": []})
    with pytest.raises(DataError, match=r"dev\.json: expected a list of records, found dict"):
        read_dataset(tmp_path, "bird", "dev")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_split_is_named(tmp_path: Path, layout: str) -> None:
    with pytest.raises(ConfigError, match=r"expected .*train.* found none; check the folder"):
        read_dataset(tmp_path, layout)


def test_an_unknown_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout: expected one of spider, bird, wikisql, bull, found 'sparc'"):
        read_dataset(tmp_path, "sparc")
