"""The clauses of a query in the order that SQL has them, each of them once, and without ends that hang in the air."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.tokens import Token, joined, tokens

__all__ = ["clauses"]

ORDER = ("", "WITH", "SELECT", "FROM", "JOIN", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET")
GLUE = {"SELECT": ",", "FROM": ",", "WHERE": "AND", "GROUP": ",", "HAVING": "AND", "ORDER": ","}
"""What joins two clauses of a kind. Of those that are not here, but for joins, the first stands."""
SETS = frozenset({"UNION", "EXCEPT", "INTERSECT"})
SIDES = frozenset({"INNER", "LEFT", "RIGHT", "FULL", "OUTER", "CROSS", "NATURAL"})
LOOSE = frozenset({"AND", "OR", ",", "ON"})
DEEPEST = 50  # levels of brackets that are looked into

_Unit = tuple[Token, ...]  # one token, or brackets with all that is in them


@dataclass(frozen=True, slots=True)
class _Clause:
    name: str
    head: list[_Unit]
    body: list[_Unit]


def clauses(text: str) -> tuple[str, list[Repair]]:
    """Put each clause where it belongs, join two of a kind, and drop what connects to nothing (`AND`, a comma)."""
    new = joined(_query(tokens(text), 0))
    return (new, [Repair("clause", text, new)]) if new.split() != text.split() else (text, [])


def _query(pieces: Sequence[Token], depth: int) -> Iterator[Token]:
    """SELECTs that are joined by UNION and the like, or a single one."""
    part: list[_Unit] = []
    for unit in _units(pieces, depth):
        if unit[0].upper in SETS:
            yield from _select(part)
            yield from unit
            part = []
        else:
            part.append(unit)
    yield from _select(part)


def _units(pieces: Sequence[Token], depth: int) -> Iterator[_Unit]:
    """The tokens, with brackets as one; in those the queries are put in order already."""
    level = start = 0
    for i, piece in enumerate(pieces):
        if piece.text == "(":
            start = start if level else i
            level += 1
        elif piece.text == ")" and level:
            level -= 1
            if level == 0:
                yield (pieces[start], *_inside(pieces[start + 1 : i], depth + 1), piece)
        elif level == 0:
            yield (piece,)
    if level:  # never closed
        yield (pieces[start], *_inside(pieces[start + 1 :], depth + 1))


def _inside(pieces: Sequence[Token], depth: int) -> Iterator[Token]:
    if depth > DEEPEST or not pieces:
        return iter(pieces)
    if pieces[0].upper in ("SELECT", "WITH"):
        return _query(pieces, depth)
    return chain.from_iterable(_units(pieces, depth))


def _select(units: Sequence[_Unit]) -> Iterator[Token]:
    """One SELECT with its clauses in order."""
    whole: dict[str, _Clause] = {}
    ordered: list[_Clause] = []
    parts = sorted(_split(units), key=lambda clause: ORDER.index(clause.name))
    for clause in parts:
        body = _tight(clause.body)
        if not body and clause.name == "SELECT" and any(part.name == "FROM" for part in parts):
            body = [(Token("sign", "*"),)]
        if not body and clause.name:
            continue
        earlier = whole.get(clause.name)
        if earlier is None or clause.name == "JOIN":
            whole[clause.name] = _Clause(clause.name, clause.head, body)
            ordered.append(whole[clause.name])
        elif glue := GLUE.get(clause.name):
            earlier.body.extend([(Token("sign", glue, "" if glue == "," else " "),), *body] if earlier.body else body)
    return chain.from_iterable(unit for clause in ordered for unit in (*clause.head, *clause.body))


def _split(units: Sequence[_Unit]) -> Iterator[_Clause]:
    clause = _Clause("", [], [])
    at = 0
    while at < len(units):
        name, length = _head(units, at)
        if name:
            yield clause
            clause = _Clause(name, list(units[at : at + length]), [])
        else:
            clause.body.append(units[at])
        at += length
    yield clause


def _head(units: Sequence[_Unit], at: int) -> tuple[str, int]:
    """The clause that starts here, if one does, and how many units its keywords are."""
    word = _word(units, at)
    if word in ("GROUP", "ORDER"):
        return (word, 2) if _word(units, at + 1) == "BY" else ("", 1)
    if word == "FROM" and _word(units, at - 1) == "DISTINCT" and _word(units, at - 2) in ("IS", "NOT"):
        return "", 1
    if word == "JOIN" or word in SIDES:
        length = next((n for n in range(4) if _word(units, at + n) not in SIDES), 4)
        return ("JOIN", length + 1) if _word(units, at + length) == "JOIN" else ("", 1)
    return (word, 1) if word in ORDER else ("", 1)


def _word(units: Sequence[_Unit], at: int) -> str:
    return units[at][0].upper if 0 <= at < len(units) else ""


def _tight(units: Sequence[_Unit]) -> list[_Unit]:
    """A clause's body without connectors at its ends, and of two that meet the first only."""
    found = list(units)
    while found and _loose(found[-1]):
        found.pop()
    while found and _loose(found[0]):
        found.pop(0)
    return found[:1] + [unit for before, unit in pairwise(found) if not (_loose(before) and _loose(unit))]


def _loose(unit: _Unit) -> bool:
    return len(unit) == 1 and (unit[0].upper or unit[0].text) in LOOSE
