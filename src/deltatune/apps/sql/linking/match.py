"""What value linking finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ValueMatch"]


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A value of the database that a question speaks of.

    Args:
        table: where it stands.
        column: of that table.
        value: as the database spells it.
        said: as the question spells it.
        score: 1 if both are the same but for case and punctuation, less if the question misspells it.
    """

    table: str
    column: str
    value: str
    said: str
    score: float
