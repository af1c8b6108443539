"""Which tables and columns a query means."""

from __future__ import annotations

import pytest
import sqlglot

from deltatune.apps.sql.finance import SOURCES, database
from deltatune.apps.sql.questions import TEMPLATES, Choice
from deltatune.apps.sql.resolve import columns_used
from deltatune.apps.sql.schema import Database, parse_database

SHOP = parse_database(
    "shop",
    """A shop

item: what is sold
code t* code of the item
price r price

sale: what was sold
no i* number
code t>item.code code of the item
day d day of the sale
""",
)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT price FROM item", {"item": ("price",)}),
        ("SELECT COUNT(*) FROM sale", {"sale": ()}),
        ("SELECT * FROM item", {"item": ("code", "price")}),
        ("SELECT s.* FROM item AS i JOIN sale AS s ON 1 = 1", {"item": (), "sale": ("no", "code", "day")}),
        ("SELECT I.PRICE FROM ITEM AS I", {"item": ("price",)}),
        ("SELECT day, price FROM item JOIN sale USING (code)", {"item": ("price",), "sale": ("day",)}),
        (
            "SELECT code FROM item WHERE EXISTS (SELECT 1 FROM sale AS s WHERE s.code = item.code AND price > 3)",
            {"item": ("code", "price"), "sale": ("code",)},
        ),
        ("SELECT t.n FROM (SELECT code, COUNT(no) AS n FROM sale GROUP BY code) AS t", {"sale": ("no", "code")}),
        ("WITH t AS (SELECT day FROM sale) SELECT day FROM t", {"sale": ("day",)}),
        ("SELECT code FROM item UNION SELECT code FROM sale ORDER BY code", {"item": ("code",), "sale": ("code",)}),
        ("SELECT SUM(price) AS no FROM item ORDER BY no", {"item": ("price",)}),
        ("SELECT x.price, nothing FROM item", {"item": ()}),
        ("SELECT a FROM elsewhere", {}),
    ],
)  # fmt: skip
def test_names_are_looked_up_where_they_stand(sql: str, wanted: dict[str, tuple[str, ...]]) -> None:
    assert columns_used(sqlglot.parse_one(sql, read="sqlite"), SHOP) == wanted


@pytest.mark.parametrize("name", SOURCES)
def test_every_column_of_our_own_queries_is_found(name: str) -> None:
    schema: Database = database(name)
    for template in (each for each in TEMPLATES if each.database == name):
        values = {
            c.name: v[1] if isinstance(v := c.values[0], tuple) else v for c in template.slots if isinstance(c, Choice)
        }
        tree = sqlglot.parse_one(template.sql.format_map(values), read="sqlite")
        names = {column.name for column in tree.find_all(sqlglot.exp.Column)}
        made = {alias.alias for alias in tree.find_all(sqlglot.exp.Alias)} - {
            column.name for table in schema.tables for column in table.columns
        }
        used = columns_used(tree, schema)
        assert {column for columns in used.values() for column in columns} >= names - made
        assert set(used) >= {t.name for t in tree.find_all(sqlglot.exp.Table)} & {t.name for t in schema.tables}
