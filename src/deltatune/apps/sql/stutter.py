"""Joins that wait for their conditions: each takes the parser twice the time."""

from __future__ import annotations

from deltatune.apps.sql.tokens import tokens

__all__ = ["MOST_JOINS", "stutters"]

MOST_JOINS = 8  # without a condition, one after the other


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
