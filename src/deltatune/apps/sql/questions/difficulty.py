"""How hard a query is, counted from its parsed tree after the rule of the Spider benchmark (Yu 2018).

Three counts decide. *Parts*: WHERE, GROUP BY, ORDER BY, LIMIT, each join, each OR, each LIKE. *Nesting*: subqueries,
set operations, and, which Spider does not have, WITH and window functions. *Extras*: more than one aggregate, column,
condition or grouping column, one for each kind.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from sqlglot import exp

__all__ = ["DIFFICULTIES", "Difficulty", "difficulty", "no_harder"]

Difficulty: TypeAlias = Literal["easy", "medium", "hard", "extra"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard", "extra")


def difficulty(tree: exp.Expr) -> Difficulty:
    """Tell "easy", "medium", "hard" or "extra"."""
    query = tree
    while isinstance(query, (exp.SetOperation, exp.Subquery)):
        query = query.this
    parts = sum(
        len(list(tree.find_all(kind))) for kind in (exp.Where, exp.Group, exp.Limit, exp.Join, exp.Or, exp.Like)
    )
    parts += sum(not isinstance(order.parent, (exp.Window, exp.WithinGroup)) for order in tree.find_all(exp.Order))
    selects = len(list(tree.find_all(exp.Select)))
    nesting = selects - 1 + len(list(tree.find_all(exp.Window)))
    conditions = [where.this for where in tree.find_all(exp.Where, exp.Having)]
    grouping = [group.expressions for group in tree.find_all(exp.Group)]
    extras = sum(
        (
            len(list(tree.find_all(exp.AggFunc))) > 1,
            len(query.expressions) > 1 if isinstance(query, exp.Select) else False,
            sum(1 + len(list(condition.find_all(exp.And, exp.Or))) for condition in conditions) > 1,
            any(len(columns) > 1 for columns in grouping),
        )
    )
    if parts <= 1 and not extras and not nesting:
        return "easy"
    if not nesting and ((extras <= 2 and parts <= 1) or (parts <= 2 and extras < 2)):
        return "medium"
    if (
        (extras > 2 and parts <= 2 and not nesting)
        or (2 < parts <= 3 and extras <= 2 and not nesting)
        or (extras == 2 and parts == 2 and not nesting)
        or (parts <= 2 and not extras and nesting <= 1)
    ):
        return "hard"
    return "extra"


def no_harder(found: Difficulty, hardest: Difficulty) -> bool:
    """Whether a query is at most so hard."""
    return DIFFICULTIES.index(found) <= DIFFICULTIES.index(hardest)
