"""A template: one meaning, several ways to ask for it, and the SQL that answers, with slots for a database's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sqlglot
from sqlglot import exp

from deltatune.apps.sql.questions.difficulty import Difficulty, difficulty

__all__ = ["Choice", "Template", "Value"]

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Choice:
    """A slot with a fixed set of values.

    Args:
        name: of the slot.
        values: each one, either a value, or what a question says with what the SQL says in its place.
    """

    name: str
    values: tuple[Value | tuple[str, str], ...]


@dataclass(frozen=True)
class Template:
    """One meaning.

    Args:
        name: unique among all templates.
        database: which of our databases it asks.
        asks: ways to ask, with `{slot}` where a value goes.
        sql: the answer in SQLite's SQL, with `:slot` for a value and `{slot}` for a word of a `Choice`.
        slots: choices, and queries: a query's columns are slots that are filled together, from one of its rows.
    """

    name: str
    database: str
    asks: tuple[str, ...]
    sql: str
    slots: tuple[Choice | str, ...] = ()

    def fill(self, values: Mapping[str, Value], words: Mapping[str, str]) -> exp.Expr:
        """The parsed SQL with its slots filled; values are literals of the tree, so that none can change it."""
        tree = sqlglot.parse_one(self.sql.format_map(words), read="sqlite")
        for slot in list(tree.find_all(exp.Placeholder)):
            slot.replace(exp.convert(values[slot.name]))
        return tree

    @cached_property
    def difficulty(self) -> Difficulty:
        """How hard it is, which the values in the slots do not change."""
        words = {c.name: v[1] for c in self.slots if isinstance(c, Choice) for v in c.values if isinstance(v, tuple)}
        return difficulty(sqlglot.parse_one(self.sql.format_map(words), read="sqlite"))
