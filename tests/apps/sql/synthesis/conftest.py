"""A database that is not ours: no comments, a key of two columns, names with spaces, a table that points to itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deltatune.apps.sql.run import Reader, open_reader

SHOP = """
CREATE TABLE "Employee" (
    "EmployeeId" INTEGER PRIMARY KEY, "Full Name" TEXT, "HireDate" DATE, "ManagerId" INTEGER,
    FOREIGN KEY ("ManagerId") REFERENCES "Employee" ("EmployeeId")
);
CREATE TABLE "Order" (
    "Region" TEXT, "Number" INTEGER, "Employee Id" INTEGER, "ordered on" DATE, "Status" TEXT, "total" REAL,
    PRIMARY KEY ("Region", "Number"),
    FOREIGN KEY ("Employee Id") REFERENCES "Employee" ("EmployeeId")
);
CREATE TABLE "Order Line" (
    "Region" TEXT, "Number" INTEGER, "line" INTEGER, "Unit Price" REAL, "List Price" REAL, "quantity" INTEGER,
    "is_gift" INTEGER, "note" BLOB,
    PRIMARY KEY ("Region", "Number", "line"),
    FOREIGN KEY ("Region", "Number") REFERENCES "Order" ("Region", "Number")
);
CREATE TABLE "empty" ("id" INTEGER PRIMARY KEY, "name" TEXT);
"""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The foreign database, opened for reading."""
    path = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    make_shop(path)
    with open_reader(path) as reader:
        yield reader


def make_shop(path: Path) -> None:
    """Write the foreign database."""
    names = ("Ada Lind", "Bo O'Neil", "Cy Young", "Di Marsh", "Ed 100%", "Flo Reed", "Gus Tan", "Hal Orr")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SHOP)
        connection.executemany(
            'INSERT INTO "Employee" VALUES (?, ?, ?, ?)',
            [(i, name, f"20{10 + i}-0{1 + i}-15", i // 2 or None) for i, name in enumerate(names, start=1)],
        )
        orders = [
            (region, i, 1 + (7 * i) % 8, f"202{i % 4}-{1 + i % 12:02}-{1 + i % 28:02}", ("open", "sent", "paid")[i % 3])
            for region in ("north", "south")
            for i in range(1, 41)
        ]
        connection.executemany(
            'INSERT INTO "Order" VALUES (?, ?, ?, ?, ?, ?)', [(*order, 10.5 * order[1] + 3) for order in orders]
        )
        connection.executemany(
            'INSERT INTO "Order Line" VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
            [
                (region, i, line, 1.25 * i + line, 1.5 * i + line, 1 + (i * line) % 30, (i + line) % 2, None)
                for region, i, *_ in orders
                for line in range(1, 4)
            ],
        )
        connection.commit()
