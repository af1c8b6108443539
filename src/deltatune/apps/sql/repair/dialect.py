"""The tree of a query, whichever dialect it was written in, and even if it breaks off."""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError

from deltatune.apps.sql.guard import PARSER_ERRORS
from deltatune.apps.sql.repair.brackets import balanced
from deltatune.apps.sql.repair.report import Repair, shown
from deltatune.apps.sql.stutter import stutters

__all__ = ["parsed", "query"]

_START = re.compile(r"[\s(]*(?:SELECT|WITH|FROM)\b", re.IGNORECASE)
OTHERS = ("sqlite", "mysql", "tsql", "postgres", "duckdb")
CUTS = 30  # times that an end which does not parse is cut off


def query(text: str, dialect: str) -> exp.Query | None:
    """The tree of the first statement, if it is a query of the dialect that selects something."""
    if not _START.match(text) or stutters(text):
        return None
    try:
        found = next((tree for tree in sqlglot.parse(text, read=dialect) if tree), None)
    except PARSER_ERRORS:
        return None
    while isinstance(found, exp.Subquery) and found.is_wrapper:  # brackets around all
        found = found.this.pop()
    if not isinstance(found, exp.Query):
        return None
    whole = all(isinstance(cte.this, exp.Query) for cte in found.find_all(exp.CTE))
    return found if whole and all(select.expressions for select in found.find_all(exp.Select)) else None


def parsed(text: str, dialect: str) -> tuple[exp.Query | None, list[Repair]]:
    """Parse what may be of another dialect, or break off in the middle.

    Returns:
        the tree, ``None`` if there is no making one, and what had to be done for it.
    """
    if tree := query(text, dialect):
        return tree, []
    for other in OTHERS:
        if tree := query(text, other):
            return tree, [Repair("dialect", text, shown(tree, dialect))]
    for whole in _shorter(text, dialect) if _START.match(text) and not stutters(text) else ():
        if tree := query(whole, dialect):
            return tree, [Repair("text", text, whole)]
    return None, []


def _shorter(text: str, dialect: str) -> Iterator[str]:
    """The text cut before what does not parse, again and again."""
    for _ in range(CUTS):
        try:
            sqlglot.parse(text, read=dialect)
            return
        except ParseError as error:
            place = error.errors[0] if error.errors else {}
            lines = text.splitlines(keepends=True)
            line, column = int(place.get("line") or 1), int(place.get("col") or 0)
            cut = sum(map(len, lines[: line - 1])) + column - len(str(place.get("highlight") or ""))
        except PARSER_ERRORS:
            return
        end = text[:cut].rstrip() if 0 < cut < len(text.rstrip()) else text.rstrip()
        text = end if end != text.rstrip() else end.rpartition(" ")[0]
        if not text:
            return
        yield from balanced(text)
