"""How tables hang together: by foreign keys, in both directions, and where there are none by keys that they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from deltatune.apps.sql.schema import Column, Database, Table

__all__ = ["Key", "fans", "key_between", "key_path"]


@dataclass(frozen=True, slots=True)
class Key:
    """What joins two tables.

    Args:
        table: the one.
        other: the other one.
        pairs: the columns of both that have to be equal.
        forward: whether the one refers to the other, and not the other to it.
    """

    table: str
    other: str
    pairs: tuple[tuple[str, str], ...]
    forward: bool = False


def key_between(schema: Database, one: str, other: str) -> Key | None:
    """What joins two tables: a foreign key, else a key that they share, else what both refer to, else equal names."""
    direct = next((key for key in _keys(schema, one) if key.other == other), None)
    if direct:
        return direct
    first, second = schema.table(one), schema.table(other)
    if one == other:  # two rows about the same thing: of the key, what refers to it
        pairs = [(column, column) for column in first.columns if column.key and column.references]
    else:
        every = [(a, b) for a in first.columns for b in second.columns]
        pairs = [(a, b) for a, b in every if a.references and a.references == b.references][:1]
        pairs = pairs or [(a, b) for a, b in every if (a.key or b.key) and _same(a, b)][:1]
    return Key(one, other, tuple((a.name, b.name) for a, b in pairs)) if pairs else None


def key_path(schema: Database, tables: Sequence[str], target: str) -> tuple[Key, ...]:
    """The shortest chain from one of the tables to the target, empty if there is none.

    Of equally short ones the chain is taken that goes through a table that refers to both its neighbours (who managed
    which fund), not through one to which both refer (manager and fund of the same company): that would pair all with
    all. Then the one with more columns is.
    """
    level: list[tuple[Key, ...]] = [(key,) for table in tables for key in _keys(schema, table)]
    level = [chain for chain in level if chain[-1].other not in tables]
    seen = set(tables)
    while level:
        found = [chain for chain in level if chain[-1].other == target]
        if found:
            return min(found, key=lambda chain: (fans(chain), -sum(len(key.pairs) for key in chain)))
        seen |= {chain[-1].other for chain in level}
        level = [(*chain, key) for chain in level for key in _keys(schema, chain[-1].other) if key.other not in seen]
    direct = (key_between(schema, table, target) for table in tables)
    return next(((key,) for key in direct if key), ())


def fans(chain: Sequence[Key]) -> int:
    """How many tables of a chain are such that both neighbours refer to them."""
    return sum(first.forward and not second.forward for first, second in pairwise(chain))


def _keys(schema: Database, name: str) -> Iterator[Key]:
    """The foreign keys of a table, those that lead to it, and the keys that it shares with another table."""
    table = next(each for each in schema.tables if each.name == name)
    for other in schema.tables:
        yield from (Key(name, other.name, (pair,), forward=True) for pair in _references(table, other))
        yield from (Key(name, other.name, ((b, a),)) for a, b in _references(other, table))
        if other is not table and (pairs := _shared(table, other)):
            yield Key(name, other.name, pairs)


def _references(table: Table, other: Table) -> list[tuple[str, str]]:
    return [(c.name, c.references[1]) for c in table.columns if c.references and c.references[0] == other.name]


def _shared(one: Table, other: Table) -> tuple[tuple[str, str], ...]:
    """The key of one, if all of it is in the key of the other: figures of the same fund at the same date."""
    ours, theirs = ([column for column in table.columns if column.key] for table in (one, other))
    few, many = (ours, theirs) if len(ours) <= len(theirs) else (theirs, ours)
    pairs = [(a, b) for a in ours for b in theirs if _same(a, b) and a.references == b.references]
    refers = any(a.references for a, _ in pairs)
    return tuple((a.name, b.name) for a, b in pairs) if refers and len(pairs) == len(few) <= len(many) else ()


def _same(one: Column, other: Column) -> bool:
    return one.name.casefold() == other.name.casefold() and one.type == other.type
