"""Columns beside aggregates that are not grouped by, and aggregates where single rows are chosen."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.repair.scopes import Sight, sights
from deltatune.apps.sql.schema import Database

__all__ = ["grouped"]

AGGREGATES = frozenset({"TOTAL", "FAVG", "FSUM"})  # those that sqlglot has no class for


def grouped(tree: exp.Query, schema: Database, dialect: str) -> list[Repair]:
    """Group by each plain column that is selected beside an aggregate, and move conditions on aggregates to HAVING.

    SQLite takes the columns beside a single `MAX` or `MIN` from the row that has it, which is a query of its own and
    stays; so does a column in a table that is grouped by its key.
    """
    repairs: list[Repair] = []
    for sight in sights(tree, schema):
        select = sight.select
        repairs += _having(sight, dialect)
        aggregates = [node for chosen in select.expressions for node in _own(chosen, exp.AggFunc)]
        group = select.args.get("group")
        if select.find(exp.Window) or not (aggregates or group) or select.is_star or (group and not group.expressions):
            continue
        if dialect == "sqlite" and not group and len(aggregates) == 1 and isinstance(aggregates[0], (exp.Max, exp.Min)):
            continue
        missing = list(dict.fromkeys(_ungrouped(sight, dialect)))
        if missing:
            select.group_by(*(part.copy() for part in missing), copy=False)
            repairs += [Repair("grouping", "", f"GROUP BY {shown(part, dialect)}") for part in missing]
    return repairs


def _ungrouped(sight: Sight, dialect: str) -> Iterator[exp.Expr]:
    """What is selected beside aggregates and not grouped by."""
    group = sight.select.args.get("group")
    grouping = group.expressions if group else []
    by_place = {part.name for part in grouping if isinstance(part, exp.Literal)}
    by_name = {part.name.casefold() for part in grouping if isinstance(part, exp.Column) and not part.table}
    for place, chosen in enumerate(sight.select.expressions, start=1):
        if str(place) in by_place or chosen.alias_or_name.casefold() in by_name:
            continue
        part = chosen.unalias()
        loose = [column for column in _loose(part, grouping) if _is_own(column, sight)]
        if not loose:
            continue
        if next(_own(part, exp.AggFunc), None) is None and not isinstance(part, exp.Column):
            yield part
            continue
        for column in loose:
            if dialect == "duckdb" or not _by_key(column, grouping, sight):
                yield column


def _loose(part: exp.Expr, grouping: list[exp.Expr]) -> Iterator[exp.Column]:
    """The columns of an expression that are in no aggregate, no query inside, and nothing that is grouped by."""
    if part in grouping or isinstance(part, (exp.AggFunc, exp.Filter, exp.WithinGroup, exp.Query)):
        return
    if isinstance(part, exp.Anonymous) and part.name.upper() in AGGREGATES:
        return
    if isinstance(part, exp.Column):
        same = [g for g in grouping if isinstance(g, exp.Column) and g.name.casefold() == part.name.casefold()]
        if not any(not g.table or not part.table or g.table.casefold() == part.table.casefold() for g in same):
            yield part
        return
    for child in part.iter_expressions():
        yield from _loose(child, grouping)


def _is_own(column: exp.Column, sight: Sight) -> bool:
    if not column.table:
        return bool(sight.owners(column.name))
    return any(source.alias.casefold() == column.table.casefold() for source in sight.sources)


def _by_key(column: exp.Column, grouping: list[exp.Expr], sight: Sight) -> bool:
    """Whether a column's table is grouped by its key, so that each group has one value of it."""
    table = sight.table_of(column)
    names = {
        part.name.casefold() for part in grouping if isinstance(part, exp.Column) and sight.table_of(part) is table
    }
    keys = {each.name.casefold() for each in table.columns if each.key} if table else set()
    return bool(keys) and keys <= names


def _having(sight: Sight, dialect: str) -> list[Repair]:
    """Conditions on aggregates, which WHERE can not have."""
    where = sight.select.args.get("where")
    if where is None:
        return []
    parts = list(where.this.flatten()) if isinstance(where.this, exp.And) else [where.this]
    moved = [part for part in parts if next(_own(part, exp.AggFunc), None) is not None]
    if not moved:
        return []
    kept = [part for part in parts if not any(part is each for each in moved)]
    sight.select.set("where", exp.Where(this=exp.and_(*kept)) if kept else None)
    sight.select.having(*moved, copy=False)
    return [Repair("grouping", f"WHERE {shown(p, dialect)}", f"HAVING {shown(p, dialect)}") for p in moved]


def _own(part: exp.Expr, kind: type[exp.Expr]) -> Iterator[exp.Expr]:
    """The nodes of a kind in an expression, without queries inside of it."""
    if isinstance(part, exp.Query):
        return
    if isinstance(part, kind):
        yield part
    for child in part.iter_expressions():
        yield from _own(child, kind)
