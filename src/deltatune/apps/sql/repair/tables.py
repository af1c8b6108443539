"""Tables that the schema does not have, and queries that name none."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp
from sqlglot.optimizer.scope import Scope

from deltatune.apps.sql.repair.nearest import close, nearest_meaning
from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.repair.scopes import Sight, sights
from deltatune.apps.sql.schema import Database, Table

__all__ = ["known_tables", "missing_from"]

LIKE = 0.75  # how alike a name has to be if no column speaks for the table
MOST = 0.6  # of the columns asked of it, which a table must have if its name is another


def known_tables(tree: exp.Query, schema: Database) -> list[Repair]:
    """Put the table that was meant, by name and by the columns asked of it, in place of one that does not exist."""
    repairs = []
    for sight in sights(tree, schema):
        for alias, (_, node) in sight.scope.selected_sources.items():
            if isinstance(node, Scope) or not isinstance(node.this, exp.Identifier):
                continue
            before = node.name
            if _real(before, schema) is None and (table := _meant(before, _asked(alias, sight), schema)):
                _rename(node, table.name, sight)
                repairs.append(Repair("table", before, table.name))
            place = node.args.get("db")
            if place is not None and place.name.casefold() == schema.name.casefold():
                repairs.append(Repair("table", f"{place.name}.{node.name}", node.name))
                for each in (node, *sight.columns()):
                    each.set("db", None)
    return repairs


def missing_from(tree: exp.Query, schema: Database) -> list[Repair]:
    """Give a query that has columns but no FROM the table that they belong to."""
    repairs = []
    for sight in sights(tree, schema):
        columns = [column for column in sight.columns() if not sight.knows(column)]
        if sight.select.args.get("from_") or not columns:
            continue
        named = [table for column in columns if (table := _real(column.table, schema))]
        table = named[0] if named else _fitting([column.name for column in columns], schema)
        if table:
            sight.select.from_(table.name, copy=False)
            repairs.append(Repair("table", "", f"FROM {table.name}"))
    return repairs


def _real(name: str, schema: Database) -> Table | None:
    return next((table for table in schema.tables if table.name.casefold() == name.casefold()), None)


def _asked(alias: str, sight: Sight) -> list[str]:
    """The columns that a query asks of one of its sources: those under its name, and bare ones that no other has."""
    others = [source for source in sight.sources if source.alias != alias and source.columns is not None]
    return [
        column.name
        for column in sight.scope.columns
        if (
            column.table.casefold() == alias.casefold() if column.table else not any(s.has(column.name) for s in others)
        )
    ]


def _meant(name: str, asked: Sequence[str], schema: Database) -> Table | None:
    comments = {table.name: table.comment for table in schema.tables}
    by_comment = nearest_meaning(name, comments)

    def alike(table: Table) -> float:
        same_end = name.partition("_")[2].casefold() == table.name.partition("_")[2].casefold() != ""
        return max(close(name, table.name), 0.9 * (same_end or table.name == by_comment))

    best = max(schema.tables, key=lambda table: alike(table) + _share(asked, table), default=None)
    if best is None or (alike(best) < LIKE and _share(asked, best) < MOST):
        return None
    return best


def _fitting(asked: Sequence[str], schema: Database) -> Table | None:
    best = max(schema.tables, key=lambda table: _share(asked, table), default=None)
    return best if best is not None and _share(asked, best) >= MOST else None


def _share(asked: Sequence[str], table: Table) -> float:
    names = {column.name.casefold() for column in table.columns}
    return sum(name.casefold() in names for name in asked) / len(asked) if asked else 0.0


def _rename(node: exp.Table, name: str, sight: Sight) -> None:
    before = node.name
    node.set("this", exp.to_identifier(name))
    if node.alias:
        return
    for column in sight.select.find_all(exp.Column):
        if column.table.casefold() == before.casefold():
            column.set("table", exp.to_identifier(name))
