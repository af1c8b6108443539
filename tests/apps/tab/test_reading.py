"""Reading: the same table from every place, only by reading."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from deltatune.apps.sql.guard import UnsafeSQLError
from deltatune.apps.tab.columns import columns_of
from deltatune.apps.tab.reading import read_table, split_target
from deltatune.errors import ConfigError, DataError

TABLE = pd.DataFrame({"age": [41.0, None, 7.5], "job": ["clerk", "none", "cook or baker"], "ill": ["no", "yes", "no"]})


def write(folder: Path, suffix: str) -> Path:
    file = folder / f"table.{suffix}"
    if suffix == "csv":
        file.write_text('\ufeffage,job,ill\n41, clerk,no\n?,none,yes\n7.5,"cook or baker",no\n', encoding="utf-8")
    elif suffix == "tsv":
        file.write_text("age\tjob\till\n41\tclerk\tno\nNA\tnone\tyes\n7.5\tcook or baker\tno\n")
    elif suffix == "parquet":
        TABLE.to_parquet(file)
    elif suffix == "jsonl":
        file.write_text(TABLE.to_json(orient="records", lines=True))
    else:
        file.write_text(
            "@relation people\n@attribute age real [0.0, 99.0]\n@attribute job {clerk,none,'cook or baker'}\n"
            "@attribute ill {no,yes}\n@data\n41,clerk,no\n?,none,yes\n7.5,'cook or baker',no\n"
        )
    return file


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet", "jsonl", "arff", "dat"])
def test_a_table_is_the_same_from_every_file(tmp_path: Path, suffix: str) -> None:
    found = read_table(write(tmp_path, suffix))
    pd.testing.assert_frame_equal(found, TABLE, check_dtype=False)
    assert [column.kind for column in columns_of(found)] == ["decimal", "category", "flag"]


def test_an_arff_header_tells_names_and_words(tmp_path: Path) -> None:
    file = tmp_path / "table.arff"
    file.write_text(
        "% of people\n@RELATION x\n@ATTRIBUTE 'body mass' REAL\n@attribute code{01,02}\n@attribute note string\n"
        "@inputs code\n@DATA\n% two\n21.5, 01, 'it\\'s, well'\n\n?,02,no\n"
    )
    assert read_table(file).astype(object).where(lambda cell: cell.notna(), None).to_dict("records") == [
        {"body mass": 21.5, "code": "01", "note": "it's, well"},
        {"body mass": None, "code": "02", "note": "no"},
    ]


def test_lines_may_end_in_a_delimiter_and_begin_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "ends.csv").write_text("paid,a,b\n0,1,2,\n1,3,4,\n")
    assert read_table(tmp_path / "ends.csv").to_dict("list") == {"paid": [0, 1], "a": [1, 3], "b": [2, 4]}
    (tmp_path / "named.csv").write_text("paid,a,b\nfirst,0,1,2\nsecond,1,3,4\n")
    assert read_table(tmp_path / "named.csv").to_dict("list") == {"paid": [0, 1], "a": [1, 3], "b": [2, 4]}


def test_a_frame_is_taken_as_it_is() -> None:
    assert read_table(TABLE) is TABLE


def test_codes_keep_the_zeros_that_they_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("zip,share,rooms,paid\n02139,0.5,3,?\n10001,0.25,4,1\n")
    found = read_table(file)
    assert found["zip"].tolist() == ["02139", "10001"]
    assert found["share"].tolist() == [0.5, 0.25]
    assert found["rooms"].tolist() == [3, 4]
    assert found["paid"].isna().tolist() == [True, False]


@pytest.mark.parametrize("delimiter", [",", ";", "|"])
def test_the_delimiter_is_told_from_the_header(tmp_path: Path, delimiter: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(f'a{delimiter}b\n1{delimiter}"2, or 5"\n')
    assert read_table(str(file)).to_dict("records") == [{"a": 1, "b": "2, or 5"}]


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_a_query_reads_a_database_and_can_do_nothing_else(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"people.{kind}"
    if kind == "sqlite":
        connection = sqlite3.connect(file)
        connection.execute("CREATE TABLE people (age REAL, job TEXT, ill TEXT)")
        connection.executemany(
            "INSERT INTO people VALUES (?, ?, ?)", TABLE.astype(object).where(TABLE.notna(), None).values
        )
        connection.commit()
        connection.close()
    else:
        duckdb = pytest.importorskip("duckdb")
        with duckdb.connect(str(file)) as made:
            made.register("source", TABLE)
            made.execute("CREATE TABLE people AS SELECT * FROM source")
    for source in (file, f"{kind}:///{file}"):
        found = read_table(source, "SELECT age, job, ill FROM people")
        pd.testing.assert_frame_equal(found, TABLE, check_dtype=False)
    with pytest.raises(UnsafeSQLError):
        read_table(file, "DELETE FROM people")
    with pytest.raises(DataError, match="query: expected rows, found none"):
        read_table(file, "SELECT age FROM people WHERE age > 1000")
    with pytest.raises(ConfigError, match="or a query beside a database"):
        read_table(file)


def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found nothing at"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="query: expected a database"):
        read_table(write(tmp_path, "csv"), "SELECT 1")
    with pytest.raises(ConfigError, match="query: expected a database"):
        read_table(TABLE, "SELECT 1")
    for name, text in (
        ("empty.csv", ""),
        ("header.csv", "a,b\n"),
        ("uneven.csv", "a,b\n1,2\n1,2,3\n"),
        ("bad.jsonl", '{"a": 1}\n[1]\n'),
        ("broken.jsonl", "{\n"),
        ("headless.arff", "1,2\n"),
        ("uneven.arff", "@relation x\n@attribute a {b}\n@data\nb\nb,c\n"),
        ("sparse.arff", "@relation x\n@attribute a {b}\n@data\n{0 b}\n"),
        ("bad.parquet", "no"),
        ("latin.csv", "a,b\n1,\udce9\n"),
    ):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(DataError, match=name):
            read_table(file)


def test_the_target_is_split_off() -> None:
    features, labels = split_target(TABLE, "ill")
    assert features.columns.tolist() == ["age", "job"]
    assert labels.tolist() == ["no", "yes", "no"]


def test_a_target_that_is_no_class_is_refused() -> None:
    with pytest.raises(DataError, match="target: expected a column among age, job, ill, found 'sick'"):
        split_target(TABLE, "sick")
    with pytest.raises(DataError, match="target: expected a class in each row, found none in 1 of 3"):
        split_target(TABLE, "age")
    with pytest.raises(DataError, match="only classes can be predicted"):
        split_target(TABLE.fillna(0), "age")
    with pytest.raises(DataError, match="found 60 different amounts"):
        split_target(pd.DataFrame({"a": range(60), "b": range(60)}), "b")
    with pytest.raises(DataError, match="expected columns beside ill"):
        split_target(TABLE[["ill"]], "ill")
