"""Reasons before the SQL, read from the query itself: which tables and why, joins, conditions, groups, order.

FinSQL (Zhang 2024) has a language model write its chain of thought and keeps what runs to the right result. Here the
steps are read from the gold query, so that they are right; `agrees` offers the check by running all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.resolve import columns_used
from deltatune.apps.sql.run import Reader
from deltatune.apps.sql.schema import Database

__all__ = ["agrees", "sql_after_reasons", "with_reasons"]

_THEN = "\nSQL: "
_CLAUSES = (
    ("where", "Only"),
    ("group", "Group by"),
    ("having", "Keep groups"),
    ("order", "Order by"),
    ("limit", "Rows"),
)


def with_reasons(sql: str, dialect: str, schema: Database) -> str:
    """The completion: one line a step, then the SQL.

    Args:
        sql: one query.
        dialect: sqlglot's name of its dialect.
        schema: of its database, for the comments of tables.
    """
    tree = sqlglot.parse_one(sql, read=dialect)
    lines = [*_tables(tree, schema), *_steps(tree, dialect)]
    return "\n".join(" ".join(line.split()) for line in lines) + _THEN + sql


def sql_after_reasons(text: str) -> str:
    """The SQL in such a completion; where a model left out the reasons, all of it."""
    _, found, sql = text.partition(_THEN)
    return sql if found else text


def agrees(sql: str, example: Example, reader: Reader) -> bool:
    """Whether SQL gives what the example's own gives: the same rows, in the same order if that is part of the answer.

    Args:
        sql: what a completion holds.
        example: with the right SQL.
        reader: the database.

    Raises:
        UnsafeSQLError: the SQL does anything but read.
        QueryError: the database can not answer it.
    """
    found, wanted = reader.run(sql).rows, reader.run(example.sql).rows
    return found == wanted if example.ordered else sorted(map(repr, found)) == sorted(map(repr, wanted))


def _tables(tree: exp.Expr, schema: Database) -> Iterator[str]:
    for name, columns in columns_used(tree, schema).items():
        comment = schema.table(name).comment
        yield f"Table {name}{f' ({comment})' if comment else ''}{': ' if columns else ''}{', '.join(columns)}"


def _steps(tree: exp.Expr, dialect: str, inside: str = "") -> Iterator[str]:
    """The steps of a query in the order in which they are thought, those of inner queries first."""
    if isinstance(tree, exp.SetOperation):
        yield from _steps(tree.left, dialect, f"{inside}first ")
        yield from _steps(tree.right, dialect, f"{inside}second ")
        yield _capital(f"{inside}combine with {tree.key.upper()}")
        return
    for below in _inner(tree):
        yield from _steps(below, dialect, f"{inside}inner ")
    for join in tree.args.get("joins") or ():
        if on := join.args.get("on"):
            yield _line(inside, "Join on", [on], dialect)
    for clause, says in _CLAUSES:
        if part := tree.args.get(clause):
            yield _line(inside, says, part.expressions or [part.this or part.expression], dialect)
    yield _line(inside, "Show different" if tree.args.get("distinct") else "Show", tree.expressions, dialect)


def _inner(tree: exp.Expr) -> Iterator[exp.Expr]:
    """The queries right inside of this one."""
    level = list(tree.iter_expressions())
    while level:
        node = level.pop(0)
        if isinstance(node, exp.Query) and not isinstance(node, exp.Subquery):
            yield node
        else:
            level += list(node.iter_expressions())


def _line(inside: str, says: str, parts: list[exp.Expr], dialect: str) -> str:
    said = ", ".join(_short(part).sql(dialect=dialect) for part in parts)
    return f"{_capital(inside + says.lower())}: {said}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _short(part: exp.Expr) -> exp.Expr:
    """The same with `...` in place of inner queries, whose steps come before."""
    made = part.copy()
    for query in list(made.find_all(exp.Select)):
        if query.parent is not None:
            query.replace(exp.to_identifier("...", quoted=False))
    return made
