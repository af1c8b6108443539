"""Conditions that break off: what was to follow `AND fnd_ty` nobody knows, so it is left out."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.repair.scopes import Sight, sights
from deltatune.apps.sql.schema import Database

__all__ = ["drop_halves"]

FLAGS = ("int", "bool", "tinyint", "smallint")  # how types begin that are a condition by themselves


def drop_halves(tree: exp.Query, schema: Database) -> list[Repair]:
    """Drop the last condition if it is nothing but a column that is not a flag, or an earlier one cut short."""
    repairs = []
    for sight in sights(tree, schema):
        for half in _halves(sight):
            rest = half.parent
            assert isinstance(rest, exp.And)
            repairs.append(Repair("text", shown(half), ""))
            rest.replace(rest.left)
    return repairs


def _halves(sight: Sight) -> Iterator[exp.Expr]:
    for place in ("where", "having"):
        clause = sight.select.args.get(place)
        if clause is None or not isinstance(clause.this, exp.And):
            continue
        *earlier, last = clause.this.flatten()
        if (isinstance(last, exp.Column) and not _is_flag(last, sight)) or any(_cut(last, whole) for whole in earlier):
            yield last


def _is_flag(column: exp.Column, sight: Sight) -> bool:
    table = sight.table_of(column)
    return table is not None and table.column(column.name).type.casefold().startswith(FLAGS)


def _cut(part: exp.Expr, whole: exp.Expr) -> bool:
    """Whether a comparison with a text is the beginning of another one."""
    if not isinstance(part, exp.EQ) or not isinstance(whole, exp.EQ) or not part.right.is_string:
        return False
    return part.left == whole.left and whole.right.is_string and whole.right.name.startswith(part.right.name)
