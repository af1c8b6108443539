"""SQL without its joins: a table that a column names is joined along the keys of the schema.

Most joins of a query follow from the columns that it names, so a model need not learn to write them (after NatSQL, Gan
et al. 2021, https://arxiv.org/abs/2109.05153). Of::

    SELECT n.unit_nav FROM mf_nav AS n JOIN mf_info AS i ON n.fnd_code = i.fnd_code WHERE i.fnd_abbr = 'Alpha'

this is left, from which the query comes back::

    SELECT mf_nav.unit_nav FROM mf_nav WHERE mf_info.fnd_abbr = 'Alpha'
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

from deltatune.apps.sql.repair.joins import needed_joins
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
    short = tree.copy()
    for scope in traverse_scope(short):
        _shorten(scope, schema)
    found = short.sql(dialect=dialect)
    try:
        back = sqlglot.parse_one(with_joins(found, dialect, schema), read=dialect)
        same = components(back, schema, values=True) == components(tree, schema, values=True)
    except (DataError, SqlglotError):
        return sql
    return found if same else sql


def with_joins(sql: str, dialect: str, schema: Database) -> str:
    """The query with the joins that its columns ask for; what does not parse is left as it is."""
    try:
        tree = sqlglot.parse_one(sql, read=dialect)
    except SqlglotError:
        return sql
    if not isinstance(tree, exp.Query) or not needed_joins(tree, schema):
        return sql
    return tree.sql(dialect=dialect)


def _shorten(scope: Scope, schema: Database) -> None:
    """Call columns by the tables that they are from, and leave one table."""
    select = scope.expression
    if not isinstance(select, exp.Select) or not select.args.get("joins"):
        return
    places = [(column, origin(column, scope, schema)) for column in scope.columns]
    for column, place in places:
        if place is not None:
            column.set("table", exp.to_identifier(place[0].name))
    select.args["from_"].this.set("alias", None)
    select.set("joins", None)
