"""Which tables and columns a prompt shows while a model learns."""

from __future__ import annotations

import random

from deltatune.apps.sql.schema import Database, Selection, Table, foreign_keys

__all__ = ["with_fillers"]


def with_fillers(
    gold: Selection, schema: Database, rng: random.Random, *, tables: int = 3, columns: int = 7
) -> Selection:
    """What a query needs, filled up by chance with what it does not.

    A linker keeps some tables and columns that are not needed, so a model that learned from the needed ones alone would
    use whatever it is shown (Zhang 2024, https://arxiv.org/abs/2401.10506). Every table gets as many columns: a model
    that learned from prompts whose columns were shared out by chance, as a linker shares them out by what is likely,
    learned more slowly.

    Args:
        gold: what the query needs; all of it is kept, even beyond the two numbers.
        schema: where the rest is drawn from.
        rng: what draws.
        tables: how many there should be. Default: 3.
        columns: how many each table should have, keys that the tables are joined by not counted. Default: 7.
    """
    others = [table.name for table in schema.tables if table.name not in gold]
    drawn = rng.sample(others, k=max(0, min(tables - len(gold), len(others))))
    kept = {*gold, *drawn}
    return {
        table.name: _filled(table, {*gold.get(table.name, ()), *_joined_by(table, kept, schema)}, columns, rng)
        for table in schema.tables
        if table.name in kept
    }


def _filled(table: Table, needed: set[str], columns: int, rng: random.Random) -> tuple[str, ...]:
    others = [column.name for column in table.columns if column.name not in needed]
    needed |= set(rng.sample(others, k=max(0, min(columns - len(needed), len(others)))))
    return tuple(column.name for column in table.columns if column.name in needed)


def _joined_by(table: Table, kept: set[str], schema: Database) -> set[str]:
    """The columns by which a table is joined to the others that are kept."""
    ends = (key for key in foreign_keys(schema) if {key[0][0], key[1][0]} <= kept)
    return {column for key in ends for name, column in key if name == table.name}
