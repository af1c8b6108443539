"""The words and signs of SQL that may not parse, so that what is in quotes or brackets is told from what is not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Token", "joined", "tokens"]

# What is opened and not closed goes on to the end, so that each letter is looked at once.
_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>'(?:[^']|'')*(?:'|\Z))
    |(?P<quoted>"(?:[^"]|"")*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[A-Za-z_][^\[\]\n]*\])
    |(?P<number>\d+(?:\.\d+)?(?!\w))
    |(?P<word>\w+)
    |(?P<sign>\|\||::|[<>=!]+|\S)""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text.

    Args:
        kind: "comment", "string", "quoted", "number", "word" or "sign".
        text: as written.
        gap: the white space before it.
    """

    kind: str
    text: str
    gap: str = " "

    @property
    def upper(self) -> str:
        """A word in capitals, to compare with keywords; empty for all else."""
        return self.text.upper() if self.kind == "word" else ""


def tokens(text: str) -> list[Token]:
    """The pieces of a text; all of it but white space is in one of them."""
    found: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        found.append(Token(str(match.lastgroup), match[0], text[end : match.start()]))
        end = match.end()
    return found


def joined(pieces: Iterable[Token]) -> str:
    """The text of which these are the pieces."""
    return "".join(piece.gap + piece.text for piece in pieces).strip()
