"""Decoding that can only write words of SQL and names of a schema."""

from __future__ import annotations

from deltatune.apps.sql.constrained.lexing import Place, QueryWords
from deltatune.apps.sql.constrained.loops import LoopsEnd
from deltatune.apps.sql.constrained.processor import OnlyKnownWords

__all__ = ["LoopsEnd", "OnlyKnownWords", "Place", "QueryWords"]
