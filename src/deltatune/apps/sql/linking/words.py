"""Words as values and questions share them: without case, marks of punctuation, and how wide the space is."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

__all__ = ["Word", "can_be_misspelt", "fold", "words"]

SHORTEST = 4  # letters of a word that is taken for a misspelt one

_IDEOGRAPH = "\u3400-\u9fff\uf900-\ufaff"  # written without spaces, so each counts as a word
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text, as it compares, and where it stands there."""

    folded: str
    start: int
    stop: int


def words(text: str) -> list[Word]:
    """The words of a text in their order."""
    return [Word(_same(found.group()), found.start(), found.end()) for found in _WORD.finditer(text)]


def fold(text: str) -> str:
    """The words of a text as they compare, with one space between them."""
    return " ".join(word.folded for word in words(text))


def can_be_misspelt(word: str) -> bool:
    """Whether a word is long enough to be told from others in spite of a fault; another number is another thing."""
    return len(word) >= SHORTEST and not any(letter.isdigit() for letter in word)


def _same(word: str) -> str:
    """What is left of a word without case and other forms of the same letters."""
    return unicodedata.normalize("NFKC", word).casefold()
