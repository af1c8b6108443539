"""Texts in double quotes, which SQLite allows, told from names."""

from __future__ import annotations

from dataclasses import replace

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.schema import Database

__all__ = ["with_texts"]


def with_texts(example: Example, schema: Database) -> Example:
    """The example with its texts in single quotes.

    To SQLite a name in double quotes that no column of the query's tables has is a text, and public data sets write
    texts so. To every other reader it is a column that is not there.

    Args:
        example: a question with its SQL. What does not parse is left as it is.
        schema: its database.
    """
    if example.dialect != "sqlite" or '"' not in example.sql:
        return example
    try:
        tree = sqlglot.parse_one(example.sql, read="sqlite")
    except SqlglotError:
        return example
    read = {table.name.casefold() for table in tree.find_all(exp.Table)}
    names = {column.name for table in schema.tables if table.name.casefold() in read for column in table.columns}
    names |= {alias.alias for alias in tree.find_all(exp.Alias)}
    names |= {column.name for alias in tree.find_all(exp.TableAlias) for column in alias.columns}
    known = {name.casefold() for name in names}
    texts = [
        column
        for column in tree.find_all(exp.Column)
        if not column.table and column.this.args.get("quoted") and column.name.casefold() not in known
    ]
    for column in texts:
        column.replace(exp.Literal.string(column.name))
    return replace(example, sql=tree.sql(dialect="sqlite")) if texts else example
