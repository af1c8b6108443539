"""Tables whose columns a query uses without reading the table: joined along the keys of the schema."""

from __future__ import annotations

from sqlglot import exp

from deltatune.apps.sql.repair.keys import key_path
from deltatune.apps.sql.repair.links import equal
from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.repair.scopes import Sight, sights
from deltatune.apps.sql.schema import Database, Table

__all__ = ["needed_joins"]


def needed_joins(tree: exp.Query, schema: Database) -> list[Repair]:
    """Join each table that a column names and that the query does not read, with those that lie between."""
    repairs: list[Repair] = []
    for sight in sights(tree, schema):
        for table in _needed(sight, schema):
            place = _place(table, sight.select)
            aliases = _before(place, sight.select, schema)
            for key in key_path(schema, list(aliases), table.name) if table.name not in aliases else ():
                join = exp.Join(this=exp.to_table(key.other), on=equal(key, aliases[key.table], key.other))
                joins = sight.select.args.get("joins") or []
                sight.select.set("joins", [*joins[:place], join, *joins[place:]])
                aliases[key.other] = key.other
                place += 1
                repairs.append(Repair("join", "", shown(join).strip()))
    return repairs


def _needed(sight: Sight, schema: Database) -> list[Table]:
    known = {table.name.casefold(): table for table in schema.tables}
    named = dict.fromkeys(column.table.casefold() for column in sight.columns() if column.table)
    return [known[name] for name in named if name in known and not sight.named(name)]


def _place(table: Table, select: exp.Select) -> int:
    """Before which of the joins a table has to come: the first that has a condition on it."""
    joins = select.args.get("joins") or []
    for i, join in enumerate(joins):
        if any(column.table.casefold() == table.name.casefold() for column in join.find_all(exp.Column)):
            return i
    return len(joins)


def _before(place: int, select: exp.Select, schema: Database) -> dict[str, str]:
    """The tables of the schema that are read before a join, with their aliases, the first of each."""
    known = {table.name.casefold(): table.name for table in schema.tables}
    sources = [select.args.get("from_"), *(select.args.get("joins") or [])[:place]]
    tables = [source.this for source in sources if source is not None and isinstance(source.this, exp.Table)]
    return {known[t.name.casefold()]: t.alias_or_name for t in reversed(tables) if t.name.casefold() in known}
