"""A schema as text: short, since a model reads all of it for each question."""

from __future__ import annotations

from decimal import Decimal

from deltatune.apps.sql.schema import Column, Database, Selection, Table

__all__ = ["schema_text"]


def schema_text(
    schema: Database, selection: Selection, *, comments: bool = True, samples: int = 2, keys: bool = True
) -> str:
    """A line for each table, and under it one for each column: name, type, key, meaning and some values.

    ::

        mf_nav: net asset value of funds by day
        - fnd_code text = mf_info.fnd_code: code of the fund
        - nav_dt date: trading day, as 2024-10-07

    Args:
        schema: the database.
        selection: the tables and columns to show.
        comments: say what tables and columns mean. Default: true.
        samples: how many values of each column of text or dates to show, if the schema has some. Default: 2.
        keys: say which columns are keys, and what they point to. Default: true.
    """
    return "\n".join(
        line
        for table in schema.tables
        if table.name in selection
        for line in _table(table, set(selection[table.name]), comments, samples, keys)
    )


def _table(table: Table, shown: set[str], comments: bool, samples: int, keys: bool) -> list[str]:
    about = f": {table.comment}" if comments and table.comment else ""
    columns = (column for column in table.columns if column.name in shown)
    return [f"{table.name}{about}", *(f"- {_column(column, comments, samples, keys)}" for column in columns)]


def _column(column: Column, comments: bool, samples: int, keys: bool) -> str:
    key = " key" if keys and column.key else ""
    points = " = {}.{}".format(*column.references) if keys and column.references else ""
    about = f": {column.comment}" if comments and column.comment else ""
    values = ", ".join(_samples(column)[:samples])
    return f"{column.name} {column.type}{key}{points}{about}{f', as {values}' if values else ''}"


def _samples(column: Column) -> list[str]:
    """Values that show how something is spelled. Numbers are spelled alike everywhere."""
    return [" ".join(str(value).split()) for value in column.samples if not isinstance(value, (int, float, Decimal))]
