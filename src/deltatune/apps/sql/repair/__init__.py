"""Output calibration: what a weak model wrote, mended into a query of the schema.

As in FinSQL (Zhang 2024, https://arxiv.org/abs/2401.10506), and further: signs and keywords, tables, columns and their
owners are put right by the schema, joins by its keys, values by what the database holds. Each step is a file here. The
first work on the text, the others on the tree, SELECT by SELECT. Nothing that comes out of it is trusted: what is run
has to pass `guard` like any other SQL.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp
from sqlglot.errors import SqlglotError

from deltatune.apps.sql.guard import UnsafeSQLError, read_only_select, render
from deltatune.apps.sql.repair.aliases import known_aliases
from deltatune.apps.sql.repair.brackets import brackets
from deltatune.apps.sql.repair.clauses import clauses
from deltatune.apps.sql.repair.columns import known_columns
from deltatune.apps.sql.repair.dialect import parsed, query
from deltatune.apps.sql.repair.functions import foreign_functions
from deltatune.apps.sql.repair.grouping import grouped
from deltatune.apps.sql.repair.halves import drop_halves
from deltatune.apps.sql.repair.joins import needed_joins
from deltatune.apps.sql.repair.keywords import functions, operators, spelling
from deltatune.apps.sql.repair.links import linked_joins
from deltatune.apps.sql.repair.literals import meant_values, quoted_values
from deltatune.apps.sql.repair.paths import short_paths
from deltatune.apps.sql.repair.repeats import drop_repeats
from deltatune.apps.sql.repair.report import Repair, Repaired, Values
from deltatune.apps.sql.repair.stutter import once
from deltatune.apps.sql.repair.tables import known_tables, missing_from
from deltatune.apps.sql.repair.text import statement
from deltatune.apps.sql.schema import Database

__all__ = ["Repair", "Repaired", "Values", "repair"]

LONGEST = 4_000  # characters of what is no query that are looked at
MOST = 50  # SELECTs: one that has more of them is in a loop


def repair(text: str, schema: Database, dialect: str, *, values: Values | None = None) -> Repaired:
    """Mend what a model wrote. A valid query stays as it is.

    Args:
        text: of the model, with whatever is around the SQL.
        schema: of the database that is asked.
        dialect: "sqlite", "duckdb" or "postgres".
        values: knows what the database holds, to correct texts that are compared with a column; ``None`` for none.

    Returns:
        the SQL to run. If it still has a problem, it is as far as repair came.

    Raises:
        ConfigError: the dialect is unknown.
    """
    problem = _problem(text, schema, dialect)
    sql, repairs = _as_text(text if problem is None else text[:LONGEST], schema, dialect)
    tree, more = parsed(sql, dialect)
    if tree is None or len(list(tree.find_all(exp.Select))) > MOST:
        return _as_it_was(text, problem, schema, dialect)
    repairs += more
    try:
        for step in _steps(schema, dialect, values):
            repairs += step(tree)
        sql = render(tree, dialect)
    except (SqlglotError, RecursionError, UnsafeSQLError):
        return _as_it_was(text, problem, schema, dialect)
    left = _problem(sql, schema, dialect)
    if left and problem is None:
        return _as_it_was(text, problem, schema, dialect)
    return Repaired(sql, tuple(repairs), left)


def _as_it_was(text: str, problem: str | None, schema: Database, dialect: str) -> Repaired:
    """The text, or, if it was a query, that query."""
    return Repaired(render(read_only_select(text, dialect, schema), dialect) if problem is None else text, (), problem)


def _as_text(text: str, schema: Database, dialect: str) -> tuple[str, list[Repair]]:
    """What can only be mended before there is a tree; each step is for what is still no query of the schema."""

    def parses(sql: str) -> bool:
        return query(sql, dialect) is not None

    repairs: list[Repair] = []
    if _problem(text, schema, dialect) is not None:
        text, repairs = statement(text, parses)
    text, more = operators(text)
    repairs += more
    for step in (once, functions, lambda sql: spelling(sql, schema), lambda sql: brackets(sql, parses), clauses):
        if _problem(text, schema, dialect) is None:
            break
        text, more = step(text)
        repairs += more
    return text, repairs


def _steps(schema: Database, dialect: str, values: Values | None) -> tuple[Callable[[exp.Query], list[Repair]], ...]:
    """Each works on the tree in place. Names come before what is known by them."""
    return (
        lambda tree: drop_repeats(tree, dialect),
        lambda tree: drop_halves(tree, schema),
        lambda tree: foreign_functions(tree, dialect),
        lambda tree: known_tables(tree, schema),
        lambda tree: missing_from(tree, schema),
        lambda tree: quoted_values(tree, schema),
        short_paths,
        lambda tree: known_aliases(tree, schema),
        lambda tree: linked_joins(tree, schema),
        lambda tree: known_columns(tree, schema),
        lambda tree: needed_joins(tree, schema),
        lambda tree: known_columns(tree, schema),  # a table that has come in may have a column of the same name
        lambda tree: grouped(tree, schema, dialect),
        lambda tree: meant_values(tree, schema, values),
    )


def _problem(sql: str, schema: Database, dialect: str) -> str | None:
    try:
        read_only_select(sql, dialect, schema)
    except UnsafeSQLError as refusal:
        return str(refusal)
    return None if query(sql, dialect) else "SQL: expected a query of columns, found none; select something"
