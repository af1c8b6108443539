"""Which tables and columns of a database a query means, with its aliases and subqueries looked through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from deltatune.apps.sql.schema import Column, Database, Table

__all__ = ["columns_used", "origin"]


def columns_used(tree: exp.Expr, schema: Database) -> dict[str, tuple[str, ...]]:
    """The tables of the schema that a query reads, and the columns of each that it names; both in the schema's order.

    ``COUNT(*)`` names no column, so a table may have none. ``SELECT *`` names all. What is in no table of the schema is
    left out, and a bare name that two tables in sight have counts for the first.
    """
    found: dict[str, set[str]] = {}
    for scope in traverse_scope(tree):
        for table in _tables(scope, schema).values():
            found.setdefault(table.name, set())
        for column in scope.columns:
            if place := origin(column, scope, schema):
                found.setdefault(place[0].name, set()).add(place[1].name)
        if isinstance(scope.expression, exp.Select):
            for table in _starred(scope.expression, _tables(scope, schema)):
                found[table.name] |= {column.name for column in table.columns}
    return {
        table.name: tuple(column.name for column in table.columns if column.name in found[table.name])
        for table in schema.tables
        if table.name in found
    }


def origin(column: exp.Column, scope: Scope, schema: Database) -> tuple[Table, Column] | None:
    """The table and column of the schema that a name means where it stands, or ``None`` if it means none of them.

    Args:
        column: as written, with or without a table before it.
        scope: the query that it stands in; names that it does not know are looked for in those around it.
        schema: the database's.
    """
    around: Scope | None = scope
    while around is not None:
        tables = _tables(around, schema)
        for alias, table in tables.items():
            if column.table and column.table.casefold() != alias.casefold():
                continue
            if found := next((c for c in table.columns if c.name.casefold() == column.name.casefold()), None):
                return table, found
        if column.table and any(column.table.casefold() == alias.casefold() for alias in around.sources):
            return None
        around = around.parent
    return None


def _tables(scope: Scope, schema: Database) -> Mapping[str, Table]:
    """The tables of the schema that a query reads itself, by alias."""
    known = {table.name.casefold(): table for table in schema.tables}
    return {
        alias: known[source.name.casefold()]
        for alias, (_, source) in scope.selected_sources.items()
        if isinstance(source, exp.Table) and source.name.casefold() in known
    }


def _starred(select: exp.Select, tables: Mapping[str, Table]) -> Iterator[Table]:
    """The tables all of whose columns a SELECT asks for."""
    for chosen in select.expressions:
        if isinstance(chosen, exp.Star):
            yield from tables.values()
        elif isinstance(chosen, exp.Column) and isinstance(chosen.this, exp.Star) and chosen.table in tables:
            yield tables[chosen.table]
