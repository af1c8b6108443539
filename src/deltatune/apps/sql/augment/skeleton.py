"""The skeleton of a query: its words with ``_`` in place of names and values (FinSQL, Zhang 2024, section 4.3).

A model that writes the skeleton first decides on the form before it looks for names.
"""

from __future__ import annotations

import re

import sqlglot
from sqlglot import Token, TokenType

from deltatune.errors import DataError

__all__ = ["skeleton", "sql_after_skeleton", "with_skeleton"]

_VALUES = {TokenType.NUMBER, TokenType.STRING, TokenType.IDENTIFIER}
_START = "Skeleton: "
_THEN = "\nSQL: "


def skeleton(sql: str, dialect: str = "sqlite") -> str:
    """The skeleton of a query: ``SELECT _ FROM _ WHERE _ = _ GROUP BY _``.

    A name with its table is one ``_``, and aliases are left out. Functions keep their names.

    Args:
        sql: one query.
        dialect: sqlglot's name of its dialect.

    Raises:
        DataError: it has letters that are no SQL.
    """
    try:
        tokens = sqlglot.tokenize(sql, read=dialect)
    except sqlglot.errors.TokenError:
        raise DataError(f"skeleton: expected SQL, found {sql[:80]!r}; correct it") from None
    words = [_word(token, following) for token, following in zip(tokens, [*tokens[1:], None], strict=True)]
    text = " ".join(words)
    text = re.sub(r"_(?: \. _)+", "_", text)  # a column with its table
    text = text.replace(" AS _", "")
    text = re.sub(r"(\w+) \( ", r"\1(", text)
    text = re.sub(r"\b(FROM|IN|AND|OR|NOT|SELECT|JOIN|ON|WHERE|BY|OVER|AS|THEN|WHEN)\(", r"\1 (", text)
    return text.replace("( ", "(").replace(" )", ")").replace(" ,", ",")


def with_skeleton(sql: str, dialect: str) -> str:
    """The completion: the skeleton, then the SQL."""
    return f"{_START}{skeleton(sql, dialect)}{_THEN}{sql}"


def sql_after_skeleton(text: str) -> str:
    """The SQL in such a completion; where a model left out the skeleton, all of it."""
    _, found, sql = text.partition(_THEN)
    return sql if found else text


def _word(token: Token, following: Token | None) -> str:
    if token.token_type in _VALUES:
        return "_"
    if token.token_type is TokenType.VAR and (following is None or following.token_type is not TokenType.L_PAREN):
        return "_"
    return token.text.upper()
