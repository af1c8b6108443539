"""Which tables and columns a prompt shows while a model learns."""

from __future__ import annotations

import random

from deltatune.apps.sql.schema import Database, Selection, foreign_keys

__all__ = ["with_fillers"]


def with_fillers(
    gold: Selection, schema: Database, rng: random.Random, *, tables: int = 3, columns: int = 7
) -> Selection:
    """What a query needs, filled up by chance with what it does not.

    A linker keeps some tables and columns that are not needed, so a model that learned from the needed ones alone would
    use whatever it is shown (Zhang 2024, https://arxiv.org/abs/2401.10506).

    The columns are shared out by chance as well: at asking, a linker gives one table many and another one few.

    Args:
        gold: what the query needs; all of it is kept, even beyond the two numbers.
        schema: where the rest is drawn from.
        rng: what draws.
        tables: how many there should be. Default: 3.
        columns: how many each table should have on average, and that it has one, keys that the tables are joined by not
            counted. Default: 7.
    """
    others = [table.name for table in schema.tables if table.name not in gold]
    drawn = rng.sample(others, k=max(0, min(tables - len(gold), len(others))))
    kept = [table for table in schema.tables if table.name in gold or table.name in drawn]
    needed = {(table, column) for table, used in gold.items() for column in used}
    needed |= {(table.name, rng.choice(table.columns).name) for table in kept if not gold.get(table.name)}
    free = [(table.name, column.name) for table in kept for column in table.columns]
    free = [place for place in free if place not in needed]
    chosen = needed | set(rng.sample(free, k=max(0, min(tables * columns - len(needed), len(free)))))
    chosen |= _joining({table.name for table in kept}, schema)
    return {
        table.name: tuple(column.name for column in table.columns if (table.name, column.name) in chosen)
        for table in kept
    }


def _joining(tables: set[str], schema: Database) -> set[tuple[str, str]]:
    """The columns by which tables are joined to each other."""
    return {end for key in foreign_keys(schema) if {key[0][0], key[1][0]} <= tables for end in key}
