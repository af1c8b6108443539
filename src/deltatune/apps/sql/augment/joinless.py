"""SQL without its joins: a table that a column names is joined along the keys of the schema.

Most joins of a query follow from the columns that it names, so a model need not learn to write them (after NatSQL, Gan
et al. 2021, https://arxiv.org/abs/2109.05153). Of::

    SELECT n.unit_nav FROM mf_nav AS n JOIN mf_info AS i ON n.fnd_code = i.fnd_code WHERE i.fnd_abbr = 'Alpha'

this is left, from which the query comes back::

    SELECT unit_nav FROM mf_nav WHERE fnd_abbr = 'Alpha'

A column is called by its table where it would be taken for another one's.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

from deltatune.apps.sql.repair.columns import led_elsewhere
from deltatune.apps.sql.repair.joins import needed_joins
from deltatune.apps.sql.repair.scopes import Sight, sights
from deltatune.apps.sql.resolve import origin
from deltatune.apps.sql.schema import Database
from deltatune.apps.sql.scoring.exact_set import components
from deltatune.errors import DataError

__all__ = ["with_joins", "without_joins"]


def without_joins(sql: str, dialect: str, schema: Database) -> str:
    """The query without its joins, or the query itself where they can not be told from its columns.

    Args:
        sql: a query of the schema.
        dialect: sqlglot's name of its dialect.
        schema: of its database.
    """
    tree = sqlglot.parse_one(sql, read=dialect)
    for bare in (True, False):
        short = tree.copy()
        for scope in traverse_scope(short):
            _shorten(scope, schema, bare=bare)
        found = short.sql(dialect=dialect)
        try:
            back = sqlglot.parse_one(with_joins(found, dialect, schema), read=dialect)
            if components(back, schema, values=True) == components(tree, schema, values=True):
                return found
        except (DataError, SqlglotError):
            continue
    return sql


def with_joins(sql: str, dialect: str, schema: Database) -> str:
    """The query with the joins that its columns ask for; what does not parse is left as it is."""
    try:
        tree = sqlglot.parse_one(sql, read=dialect)
        if not isinstance(tree, exp.Query):
            return sql
        led = [column for sight in sights(tree, schema) for column in _tell_apart(sight, schema)]
        return tree.sql(dialect=dialect) if needed_joins(tree, schema) or led else sql
    except SqlglotError:
        return sql


def _shorten(scope: Scope, schema: Database, *, bare: bool) -> None:
    """Leave one table, and call columns by their own names alone, or by the tables that they are from."""
    select = scope.expression
    if not isinstance(select, exp.Select) or not select.args.get("joins"):
        return
    places = [(column, origin(column, scope, schema)) for column in scope.columns]
    for column, place in places:
        if place is not None:
            column.set("table", None if bare else exp.to_identifier(place[0].name))
    select.args["from_"].this.set("alias", None)
    select.set("joins", None)


def _tell_apart(sight: Sight, schema: Database) -> list[exp.Column]:
    """Call columns by their tables if some are of tables that the query does not read yet, which are returned."""
    bare = [column for column in sight.columns() if not column.table]
    missing = [column for column in bare if not sight.knows(column)]
    led = [column for column in missing if led_elsewhere(column, sight, schema)]
    for column in bare if led else ():
        if not column.table and (owners := sight.owners(column.name)):
            column.set("table", exp.to_identifier(owners[0].alias))
    if led:
        _drop_unasked(sight, led[0].table)
    return led


def _drop_unasked(sight: Sight, table: str) -> None:
    """Read another table in place of the one that is read if nothing of that is asked for, not even how many rows."""
    select = sight.select
    counted = select.find(exp.Star) is not None or select.args.get("distinct") is not None
    here = {source.alias.casefold() for source in sight.sources}
    if not (counted or select.args.get("joins") or here & {column.table.casefold() for column in sight.columns()}):
        select.args["from_"].set("this", exp.to_table(table))
