"""Schemas: their short form, and what is read from a database that is not ours."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
import sqlalchemy as sa

from deltatune.apps.sql.reflect import read_database, read_engine
from deltatune.apps.sql.schema import Column, Database, Table, parse_database, part_of, with_first
from deltatune.errors import ConfigError, DataError

SHOP = """A shop

item: what is sold
code t* code of the item
price r price

sale: what was sold
no i* number
code t>item.code code of the item
day d day of the sale
"""


def test_the_short_form() -> None:
    assert parse_database("shop", SHOP) == Database(
        "shop",
        (
            Table(
                "item",
                (Column("code", "text", "code of the item", True), Column("price", "real", "price")),
                "what is sold",
            ),
            Table(
                "sale",
                (
                    Column("no", "int", "number", True),
                    Column("code", "text", "code of the item", references=("item", "code")),
                    Column("day", "date", "day of the sale"),
                ),
                "what was sold",
            ),
        ),
        "A shop",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("code x code", "shop, line 2: expected `name type comment`, found 'code x code'"),
        ("code t code", "shop, line 2: expected `name type comment`"),
        ("item: goods\ncode t>other.code code", "shop, line 3: expected an earlier column, found other.code"),
    ],
)
def test_a_wrong_line_is_named(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_database("shop", f"A shop\n{line}")


def test_a_part_and_another_order() -> None:
    shop = parse_database("shop", SHOP)
    part = part_of(shop, {"sale": ("day",)})
    assert [(table.name, [column.name for column in table.columns]) for table in part.tables] == [("sale", ["day"])]
    assert [table.name for table in with_first(shop, ["sale"]).tables] == ["sale", "item"]
    assert with_first(shop, ["item"]) == with_first(shop, []) == shop


def test_names_are_found_in_any_case_and_others_are_named() -> None:
    shop = parse_database("shop", SHOP)
    assert shop.table("ITEM").column("Price").type == "real"
    with pytest.raises(DataError, match="database shop: expected a table among item, sale, found 'goods'"):
        shop.table("goods")
    with pytest.raises(DataError, match="table item: expected a column among code, price, found 'day'"):
        shop.table("item").column("day")


@pytest.mark.filterwarnings("error")
def test_a_foreign_database_of_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "odd.db"
    connection = sqlite3.connect(path)
    connection.execute(
        'CREATE TABLE "Sold Items" ( -- all that was sold\n'
        '  "Free (%)" REAL, -- share that was free\n'
        "  note, -- no type at all\n"
        "  place GEOMETRY,\n"
        "  amount DECIMAL(10, 2) -- in cents\n)"
    )
    connection.execute('INSERT INTO "Sold Items" VALUES (0.5, ?, NULL, 3)', ("x" * 500,))
    connection.execute('CREATE VIEW cheap AS SELECT amount FROM "Sold Items"')
    connection.commit()
    connection.close()
    odd = read_database(path)
    table = odd.table("Sold Items")
    assert table.comment == "all that was sold"
    assert table.column("Free (%)") == Column("Free (%)", "real", "share that was free", samples=(0.5,))
    assert table.column("note").samples == ("x" * 80,)
    assert table.column("amount") == Column("amount", "real", "in cents", samples=(3,))
    assert table.column("place").samples == ()
    assert odd.table("cheap").column("amount").samples == (3,)
    assert read_engine(sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool), "odd") == odd


def test_duckdb_shows_the_schema_that_queries_read(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")
        connection.execute("INSERT INTO orders VALUES (1, 'pen')")
        connection.execute("CREATE SCHEMA staging")
        connection.execute("CREATE TABLE staging.orders (id INTEGER, raw TEXT)")
        connection.execute("CREATE TABLE staging.loads (id INTEGER)")
    (table,) = read_database(tmp_path / "shop.duckdb").tables
    assert [(column.name, column.key, column.samples) for column in table.columns] == [
        ("id", True, (1,)),
        ("item", False, ("pen",)),
    ]


def test_what_can_not_be_read_is_left_out_and_named(tmp_path: Path) -> None:
    statements = (
        "CREATE TABLE kept (a INTEGER)",
        "CREATE TABLE gone (b INTEGER)",
        "CREATE VIEW broken AS SELECT b FROM gone",
        "DROP TABLE gone",
    )
    for connect, file in ((sqlite3.connect, "shop.sqlite"), (duckdb.connect, "shop.duckdb")):
        with closing(connect(tmp_path / file)) as connection:
            for statement in statements:
                connection.execute(statement)
        with pytest.warns(UserWarning, match="table broken: left out, for it can not be read"):
            found = read_database(tmp_path / file)
        assert [table.name for table in found.tables] == ["kept"]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    for name in ("x.sqlite", "x.duckdb"):
        (tmp_path / name).write_text("this is no database, whatever its name says" * 50)
        with pytest.raises(ConfigError, match=f"expected a .* file at .*{name}, found"):
            read_database(tmp_path / name)


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a connection to postgresql.*\*\*\*.*, found"):
        read_database(f"postgresql://me:secret@/x?host={tmp_path}")
