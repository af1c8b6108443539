"""The parts of a query, as exact-set match compares them."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Components"]


@dataclass(frozen=True, slots=True)
class Components:
    """The parts of a query, written so that equal parts are equal texts; sorted where their order means nothing.

    Args:
        select: what is asked for.
        distinct: whether equal rows are dropped.
        tables: what is read, with the kind of a join that is not an inner one.
        joins: columns that joins make equal, and the conditions of outer joins.
        where: conditions, all of which hold.
        group: by what rows are grouped.
        having: conditions on groups.
        order: by what rows are ordered, the first first.
        limit: how many rows, and from which on.
        operation: UNION, UNION ALL, INTERSECT or EXCEPT, empty for a single SELECT.
        operands: the queries that the operation takes.
    """

    select: tuple[str, ...] = ()
    distinct: bool = False
    tables: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    having: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    limit: tuple[str, ...] = ()
    operation: str = ""
    operands: tuple[Components, ...] = ()

    def differences(self, other: Components) -> tuple[str, ...]:
        """The names of the parts in which two queries differ."""
        return tuple(part.name for part in fields(self) if getattr(self, part.name) != getattr(other, part.name))

    def __str__(self) -> str:
        parts = ((part.name, getattr(self, part.name)) for part in fields(self))
        return "{" + "; ".join(f"{name}: {_text(value)}" for name, value in parts if value) + "}"


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
