"""Functions of other dialects, as this one writes them."""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from deltatune.apps.sql.guard import PARSER_ERRORS
from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.safe import NAMED_FUNCTIONS

__all__ = ["foreign_functions"]

OTHERS = ("mysql", "postgres", "sqlite", "tsql")
PARTS = {"YEAR": "'%Y'", "MONTH": "'%m'", "DAY": "'%d'", "DAYOFMONTH": "'%d'"}
STARTS = {"YEAR": "'%Y-01-01'", "MONTH": "'%Y-%m-01'", "DAY": "'%Y-%m-%d'"}


def foreign_functions(tree: exp.Query, dialect: str) -> list[Repair]:
    """Replace functions that the dialect does not have by what means the same in it."""
    repairs = []
    for node in reversed(list(tree.find_all(exp.Func, exp.Add, exp.Sub))):  # the inner ones first
        if node.parent is None:
            continue
        new = _of_another(node, dialect) if isinstance(node, (exp.Anonymous, exp.ToChar)) else node
        if dialect == "sqlite":
            new = _for_sqlite(new)
        if new is not node:
            before = shown(node, dialect)
            node.replace(new)
            repairs.append(Repair("dialect", before, shown(new, dialect)))
    return repairs


def _of_another(node: exp.Func, dialect: str) -> exp.Expr:
    """A function of which sqlglot knows nothing here, read as the first dialect does that knows it."""
    if node.name.upper() in NAMED_FUNCTIONS[dialect]:
        return node
    sql = shown(node, "postgres" if isinstance(node, exp.ToChar) else dialect)
    for other in OTHERS:
        try:
            found = sqlglot.parse_one(sql, read=other)
        except PARSER_ERRORS:
            continue
        if isinstance(found, exp.Func) and not isinstance(found, (exp.Anonymous, exp.ToChar)):
            return found
    return node


def _for_sqlite(node: exp.Expr) -> exp.Expr:
    """SQLite has no functions for the parts of a date, and counts on dates by words."""
    match node:
        case exp.Year() | exp.Month() | exp.Day() | exp.DayOfMonth() | exp.Quarter():
            return _part(node.sql_name(), node.this, node)
        case exp.Extract():
            return _part(node.name.upper(), node.expression, node)
        case exp.DateTrunc() | exp.TimestampTrunc() if (unit := node.text("unit").upper()) in STARTS:
            return _written(f"STRFTIME({STARTS[unit]}, :a)", node.this)
        case exp.Left():
            return _written("SUBSTR(:a, 1, :b)", node.this, node.expression)
        case exp.Right():
            return _written("SUBSTR(:a, -:b)", node.this, node.expression)
        case exp.Concat() if len(node.expressions) > 1:
            first, *others = node.expressions
            for other in others:
                first = exp.DPipe(this=first.copy(), expression=other.copy())
            return exp.paren(first, copy=False)
        case exp.Add() | exp.Sub() if isinstance(span := node.expression, exp.Interval):
            return _moved(node.this, span.this, span.text("unit"), isinstance(node, exp.Sub)) or node
        case exp.DateAdd() | exp.DateSub():
            span = node.expression if isinstance(node.expression, exp.Interval) else node
            amount = span.this if span is node.expression else node.expression
            return _moved(node.this, amount, span.text("unit"), isinstance(node, exp.DateSub)) or node
    return node


def _part(unit: str, of: exp.Expr, node: exp.Expr) -> exp.Expr:
    day = of.this if isinstance(of, exp.TsOrDsToDate) else of
    if unit == "QUARTER":
        return _written("((CAST(STRFTIME('%m', :a) AS INTEGER) + 2) / 3)", day)
    return _written(f"CAST(STRFTIME({PARTS[unit]}, :a) AS INTEGER)", day) if unit in PARTS else node


def _moved(day: exp.Expr, amount: exp.Expr, unit: str, back: bool) -> exp.Expr | None:
    if not isinstance(amount, exp.Literal):
        return None
    number, _, word = amount.name.partition(" ")  # as in INTERVAL '1 year'
    step = exp.Literal.string(f"{'-' if back else '+'}{number} {(unit or word).lower()}")
    return _written("DATE(:a, :b)", day, step)


def _written(sql: str, *parts: exp.Expr) -> exp.Expr:
    """The tree of SQLite's SQL with `:a` and `:b` filled."""
    tree = sqlglot.parse_one(sql, read="sqlite")
    for slot in list(tree.find_all(exp.Placeholder)):
        slot.replace(parts["ab".index(slot.name)].copy())
    return tree
