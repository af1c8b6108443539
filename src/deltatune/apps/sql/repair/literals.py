"""Values that were written as something else, or that the database spells in another way."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlglot import exp

from deltatune.apps.sql.repair.nearest import nearest
from deltatune.apps.sql.repair.report import Repair, Values, shown
from deltatune.apps.sql.repair.scopes import Sight, sights
from deltatune.apps.sql.schema import Column, Database, Table

__all__ = ["meant_values", "quoted_values"]

COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Like, exp.ILike)
NAMED = 0.8  # how alike a name has to be to a column's to be one, misspelt
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})")


def quoted_values(tree: exp.Query, schema: Database) -> list[Repair]:
    """Make texts of what is compared with a column and is not one: `"bond"`, `bond`, `2024-12-31`."""
    repairs = []
    every = {column.name.casefold() for table in schema.tables for column in table.columns}
    for sight in sights(tree, schema):
        for column, value in _compared(sight):
            new: exp.Expr | None = None
            if isinstance(value, exp.Column) and not value.table:
                if _is_value(value, column, sight, every):
                    new = exp.Literal.string(value.name)
            elif isinstance(value, exp.Sub) and (found := _DATE.fullmatch(shown(value).replace(" ", ""))):
                new = exp.Literal.string(f"{found[1]}-{found[2]:0>2}-{found[3]:0>2}")
            if new is not None:
                repairs.append(Repair("value", shown(value), shown(new)))
                value.replace(new)
    return repairs


def meant_values(tree: exp.Query, schema: Database, values: Values | None) -> list[Repair]:
    """Compare texts with texts, as the database spells them.

    Args:
        tree: changed in place.
        schema: says which columns hold text.
        values: what they hold; without it only the types are looked at.
    """
    repairs = []
    for sight in sights(tree, schema):
        for side, value in _compared(sight):
            place = _place(side, sight) if isinstance(side, exp.Column) else None
            if not isinstance(value, exp.Literal):
                continue
            new = value.name if isinstance(side, exp.TimeToStr) else None
            if place and _is_text(place[1]):
                found = values.closest(place[0].name, place[1].name, value.name) if values and _exact(value) else None
                new = found or value.name
            if new is not None and (new != value.name or not value.is_string):
                after = exp.Literal.string(new)
                repairs.append(Repair("value", shown(value), shown(after)))
                value.replace(after)
    return repairs


def _compared(sight: Sight) -> Iterator[tuple[exp.Expr, exp.Expr]]:
    """What is compared, with each of what it is compared with."""
    for node in list(sight.scope.find_all(*COMPARISONS, exp.In, exp.Between)):
        if isinstance(node, exp.In):
            yield from ((node.this, value) for value in list(node.expressions))
        elif isinstance(node, exp.Between):
            yield from ((node.this, node.args[end]) for end in ("low", "high"))
        else:
            left, right = node.this, node.expression
            yield (right, left) if isinstance(left, exp.Literal) else (left, right)


def _is_value(value: exp.Column, column: exp.Expr, sight: Sight, every: set[str]) -> bool:
    """Whether what stands as a column's name is a text: it names none, and is compared with one of text or date."""
    if sight.knows(value) or value.name.casefold() in every or not isinstance(column, exp.Column):
        return False
    if value.this.quoted and not re.fullmatch(r"\w+", value.name):
        return True
    names = {name for source in sight.sources for name in source.columns or ()}
    if nearest(value.name, names, NAMED):
        return False
    place = _place(column, sight)
    return value.this.quoted or (place is not None and _is_text(place[1]))


def _place(column: exp.Column, sight: Sight) -> tuple[Table, Column] | None:
    table = sight.table_of(column)
    return (table, table.column(column.name)) if table else None


def _is_text(column: Column) -> bool:
    """The types of our own databases, and those of others."""
    return column.type.casefold().startswith(("text", "varchar", "char", "nvarchar", "nchar", "string"))


def _exact(value: exp.Literal) -> bool:
    """A pattern of LIKE is no value."""
    return not isinstance(value.parent, (exp.Like, exp.ILike, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between))
