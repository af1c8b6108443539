"""What the names in each SELECT of a query can mean: its sources with their columns, and the queries around it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, traverse_scope

from deltatune.apps.sql.schema import Database, Table

__all__ = ["Sight", "Source", "sights"]


@dataclass(frozen=True, slots=True)
class Source:
    """A table or subquery that a SELECT reads.

    Args:
        alias: by which its columns are named.
        table: of the schema; ``None`` if it is a query, or unknown.
        columns: that it has; ``None`` if that is not known.
    """

    alias: str
    table: Table | None
    columns: tuple[str, ...] | None

    def has(self, name: str) -> bool:
        """Whether it has such a column; one of which nothing is known may have any."""
        return self.columns is None or self.spelled(name) is not None

    def spelled(self, name: str) -> str | None:
        """A column's name as the source spells it."""
        return next((column for column in self.columns or () if column.casefold() == name.casefold()), None)


@dataclass(frozen=True, slots=True)
class Sight:
    """One SELECT.

    Args:
        select: its tree.
        sources: what it reads, in order.
        made: names that it gives to what it selects.
        around: the query in whose conditions it stands, whose names it sees too.
        scope: sqlglot's.
    """

    select: exp.Select
    sources: tuple[Source, ...]
    made: frozenset[str]
    around: Sight | None
    scope: Scope

    def columns(self) -> Iterator[exp.Column]:
        """The columns named in it, without those in queries inside."""
        for column in list(self.scope.find_all(exp.Column)):
            if not isinstance(column.this, exp.Star):
                yield column

    def named(self, alias: str) -> Source | None:
        """The source of that alias, here or around."""
        sight: Sight | None = self
        while sight is not None:
            for source in sight.sources:
                if source.alias.casefold() == alias.casefold():
                    return source
            sight = sight.around
        return None

    def owners(self, name: str) -> list[Source]:
        """The sources here that have such a column."""
        return [source for source in self.sources if source.has(name)]

    def knows(self, column: exp.Column) -> bool:
        """Whether a column means something where it stands."""
        if column.table:
            source = self.named(column.table)
            return source is not None and source.has(column.name)
        sight: Sight | None = self
        while sight is not None:
            if sight.owners(column.name):
                return True
            sight = sight.around
        return column.name.casefold() in self.made and not _selected(column)

    def table_of(self, column: exp.Column) -> Table | None:
        """The table of the schema that a column belongs to."""
        if column.table:
            sources = [source] if (source := self.named(column.table)) else []
        else:
            sources = self.owners(column.name)
        return next((s.table for s in sources if s.table and s.has(column.name)), None)


def sights(tree: exp.Expr, schema: Database) -> list[Sight]:
    """All SELECTs of a query, the outer ones first.

    Raises:
        SqlglotError: the query has names that contradict each other.
    """
    known = {table.name.casefold(): table for table in schema.tables}
    found: dict[int, Sight] = {}
    for scope in reversed(traverse_scope(tree)):
        if isinstance(scope.expression, exp.Select):
            outer = _around(scope)
            found[id(scope)] = Sight(
                scope.expression,
                tuple(_sources(scope, known)),
                frozenset(e.alias.casefold() for e in scope.expression.expressions if isinstance(e, exp.Alias)),
                found.get(id(outer)) if outer else None,
                scope,
            )
    return list(found.values())


def _sources(scope: Scope, known: dict[str, Table], passed: frozenset[int] = frozenset()) -> Iterator[Source]:
    for alias, (_, source) in scope.selected_sources.items():
        if isinstance(source, Scope):
            yield Source(alias, None, _made_by(source, known, passed | {id(scope)}))
        else:
            table = known.get(source.name.casefold())
            yield Source(alias, table, tuple(column.name for column in table.columns) if table else None)


def _made_by(scope: Scope, known: dict[str, Table], passed: frozenset[int]) -> tuple[str, ...] | None:
    """The columns that a query makes; a query that reads itself is in `passed`."""
    if scope.outer_columns:
        return tuple(scope.outer_columns)
    if scope.set_operation_scopes:
        return _made_by(scope.set_operation_scopes[0], known, passed)
    if not isinstance(scope.expression, exp.Select) or id(scope) in passed:
        return None
    names: list[str] = []
    for chosen in scope.expression.expressions:
        if not chosen.is_star:
            names.append(chosen.alias_or_name)
            continue
        for source in _sources(scope, known, passed):
            if isinstance(chosen, exp.Column) and chosen.table.casefold() != source.alias.casefold():
                continue
            if source.columns is None:
                return None
            names += source.columns
    return tuple(names)


def _around(scope: Scope) -> Scope | None:
    """The SELECT whose names a query sees: a condition's subquery does, a table in FROM or WITH does not."""
    around: Scope | None = scope
    while around is not None and not (around.is_cte or around.is_derived_table):
        around = around.parent
        if around is not None and isinstance(around.expression, exp.Select):
            return around
    return None


def _selected(column: exp.Column) -> bool:
    """Whether a column stands in what is selected, where the new names are not yet known."""
    select = column.find_ancestor(exp.Select)
    node: exp.Expr | None = column
    while node is not None and node.parent is not select:
        node = node.parent
    return node is not None and node.arg_key == "expressions"
