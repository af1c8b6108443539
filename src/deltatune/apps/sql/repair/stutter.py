"""Joins said over and over: besides being no query, they take the parser a time that doubles with each."""

from __future__ import annotations

import re

from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.repair.tokens import tokens

__all__ = ["MOST_JOINS", "once", "stutters"]

MOST_JOINS = 8  # without a condition, one after the other
_SIDE = r"(?:(?:LEFT|RIGHT|FULL|INNER|OUTER|CROSS|NATURAL)\s{1,9}){0,3}"
_AGAIN = re.compile(rf"(\b{_SIDE}JOIN\s{{1,9}}\w+(?:\s{{1,9}}AS\s{{1,9}}\w+)?)(?:\s{{1,9}}\1\b)+", re.IGNORECASE)


def stutters(text: str) -> bool:
    """Whether a text has more joins in a row than can be parsed."""
    waiting = 0
    for piece in tokens(text):
        if piece.upper == "JOIN":
            waiting += 1
        elif piece.upper in ("ON", "USING"):
            waiting = max(0, waiting - 1)
        elif piece.upper == "SELECT":
            waiting = 0
        if waiting > MOST_JOINS:
            return True
    return False


def once(text: str) -> tuple[str, list[Repair]]:
    """Of a join that is said several times in a row, leave one."""
    repairs: list[Repair] = []

    def first(found: re.Match[str]) -> str:
        repairs.append(Repair("repeat", found[0][len(found[1]) :].strip(), ""))
        return found[1]

    return _AGAIN.sub(first, text), repairs
