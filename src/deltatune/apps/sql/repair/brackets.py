"""Brackets that are opened and never closed, or the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.tokens import Token, joined, tokens

__all__ = ["balanced", "brackets"]

CLAUSES = frozenset({"FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "UNION", "EXCEPT", "INTERSECT"})
AFTER = CLAUSES | {"AS", "AND", "OR", "THEN", "ELSE", "END", "DESC", "ASC"}
SIGNS = frozenset({"=", "<", ">", "<=", ">=", "<>", "!="})
SETS = frozenset({"UNION", "ALL", "EXCEPT", "INTERSECT", "DISTINCT"})
TRIES = 12


def brackets(text: str, parses: Callable[[str], bool]) -> tuple[str, list[Repair]]:
    """Balance brackets in the first way that makes a query; if none does, as `balanced` first has it."""
    ways = list(balanced(text))
    new = next((way for way in ways if parses(way)), ways[0])
    return (new, [Repair("text", text, new)]) if new.split() != text.split() else (text, [])


def balanced(text: str) -> Iterator[str]:
    """The text without brackets that close nothing, and with those closed that stay open.

    What stands in a function or a list ends before `AS`, a comparison or a clause; a query ends before another one, or
    with the text. If that makes no query, all are closed at the end, or before one of the clauses.
    """
    pieces = _opened(tokens(text))
    missing = len(_open(pieces))
    closed = pieces
    for _ in range(min(missing, TRIES)):
        closed = _close(closed)
    yield joined(closed)
    if missing == 0:
        return
    yield joined(pieces) + ")" * missing
    start = _open(pieces)[-1]
    for place in [i for i in range(len(pieces) - 1, start + 1, -1) if pieces[i].upper in AFTER][:TRIES]:
        yield joined(_inserted(pieces, place)) + ")" * (missing - 1)


def _opened(pieces: Sequence[Token]) -> list[Token]:
    """Without what closes nothing."""
    kept, depth = [], 0
    for piece in pieces:
        if piece.text == ")" and depth == 0:
            continue
        depth += (piece.text == "(") - (piece.text == ")")
        kept.append(piece)
    return kept


def _open(pieces: Sequence[Token]) -> list[int]:
    """Where the brackets are that stay open."""
    found: list[int] = []
    for i, piece in enumerate(pieces):
        if piece.text == "(":
            found.append(i)
        elif piece.text == ")" and found:
            found.pop()
    return found


def _close(pieces: list[Token]) -> list[Token]:
    """Close the innermost that is open where its content most likely ends."""
    start = _open(pieces)[-1]
    depth = 0
    for place in range(start + 1, len(pieces)):
        depth += (pieces[place].text == "(") - (pieces[place].text == ")")
        if depth == 0 and place > start + 1 and _ends(pieces, start, place):
            return _inserted(pieces, place)
    return [*pieces, Token("sign", ")", "")]


def _ends(pieces: Sequence[Token], start: int, place: int) -> bool:
    """Whether what a bracket holds can have ended before a token, by what stands before and in it."""
    before, first, word = (pieces[i].upper if i >= 0 else "" for i in (start - 1, start + 1, place))
    if first in ("SELECT", "WITH"):
        return first == word == "SELECT" and pieces[place - 1].upper not in SETS
    if before == "OVER":
        return word in AFTER - {"ORDER", "DESC", "ASC"}
    if before == "IN":
        return word in AFTER
    if before and before not in AFTER | {"ON", "BY", "NOT", "SELECT", "WHEN"}:  # a function
        return word in AFTER or pieces[place].text in SIGNS
    return word in AFTER - {"AND", "OR"}


def _inserted(pieces: Sequence[Token], place: int) -> list[Token]:
    return [*pieces[:place], Token("sign", ")", ""), *pieces[place:]]
