"""Several linkers as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from deltatune.apps.sql.linking.either import EitherLinker
from deltatune.apps.sql.linking.lexical import LexicalLinker
from deltatune.apps.sql.linking.ranking import Ranking
from deltatune.apps.sql.schema import Column, Database, Table

SHOP = Database("shop", (Table("item", (Column("code", "text"), Column("price", "real"))), Table("sale", ())))


@dataclass(frozen=True)
class Fixed:
    """A linker that always says the same."""

    item: float
    sale: float
    code: float
    price: float

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        columns = {"item": {"code": self.code, "price": self.price}, "sale": {}}
        return [Ranking(schema, {"item": self.item, "sale": self.sale}, columns) for _ in questions]


def test_what_either_is_sure_of_counts() -> None:
    one, other = Fixed(0.5, 0.0, 1.0, 0.2), Fixed(0.5, 0.3, 0.4, 0.5)
    first, second = EitherLinker((one, other)).rank(["a", "b"], SHOP)
    assert first == second
    assert first.tables == pytest.approx({"item": 0.75, "sale": 0.3})
    assert first.columns["item"] == pytest.approx({"code": 1.0, "price": 0.6})
    assert EitherLinker((other, one)).rank(["a"], SHOP)[0].columns["item"] == pytest.approx(first.columns["item"])


def test_one_that_knows_nothing_changes_nothing() -> None:
    blind, lexical = Fixed(0.0, 0.0, 0.0, 0.0), LexicalLinker()
    [found], [alone] = (
        linker.rank(["the price of an item"], SHOP) for linker in (EitherLinker((blind, lexical)), lexical)
    )
    assert found.tables == pytest.approx(alone.tables)
    assert found.columns["item"] == pytest.approx(alone.columns["item"])
