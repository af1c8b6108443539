"""Names as SQL has them."""

from __future__ import annotations

import re

from sqlglot import exp
from sqlglot.tokens import Tokenizer

from deltatune.apps.sql.guard import BARE_FUNCTIONS

__all__ = ["quoted"]

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
_WORDS = frozenset(word for keyword in Tokenizer.KEYWORDS for word in keyword.split())
_WORDS |= {name.upper() for name in BARE_FUNCTIONS}


def quoted(name: str) -> str:
    """A name as SQL has it, in quotes where it needs them."""
    needed = not _PLAIN.fullmatch(name) or name.upper() in _WORDS
    return exp.to_identifier(name, quoted=needed).sql(dialect="sqlite")
