"""The SQL in what a model has written: without fences, labels, talk around it, and what follows its end."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from rapidfuzz.distance import OSA

from deltatune.apps.sql.repair.report import Repair
from deltatune.apps.sql.tokens import Token, joined, tokens

__all__ = ["statement"]

_PLAIN = {"'": "‘’‚‛′´", '"': "“”„‟″", " ": "\u00a0\u2003\u2009\u3000", "-": "−–—", ";": "；", ",": "，", "(": "（"}
_PLAIN |= {")": "）", "=": "＝", "!=": "≠", "<=": "≤", ">=": "≥"}
_LETTERS = {ord(odd): plain for plain, odds in _PLAIN.items() for odd in odds}
_BLANK = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\ufeff\ud800-\udfff]")

_LEAD = r"```\s{0,4}(?:sql\w*\b)?|\b(?:SQL|query|answer)\b[ \w]{0,20}:[\s*`]{0,9}"
_START = r"(?:SELECT|WITH)\b"
# Where a query may start, the likelier places first.
_PLACES = tuple(
    re.compile(place, re.IGNORECASE | re.MULTILINE)
    for place in (rf"(?:\A[\s(]*|^[ \t>]*|(?:{_LEAD})\s{{0,9}})({_START})", rf"\s({_START})")
)
_FIRST_WORD = re.compile(rf"(?:\A|{_LEAD})\s{{0,9}}([A-Z]{{4,8}})\b")
_GOES_ON = re.compile(r"(?:[(,)]|\b(?:UNION|ALL|DISTINCT|EXCEPT|INTERSECT|AS))\s*\Z", re.IGNORECASE)
_TRIES = 6

_LABELS = "question|explanation|note|answer|input|output|schema|sql|query|database|result|human|user|assistant"
_CLAUSES = (
    "select|from|where|group|having|order|limit|join|left|right|inner|cross|full|union|except|intersect|and|or|on"
)
# What can not be part of a query: a fence, a mark of the chat template, a label, and a sentence on a line of its own.
_MARK = re.compile(rf"```|</?s>|<\||^\s*#|^\W{{0,9}}(?:{_LABELS})\b[ \w]{{0,20}}:", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(rf"\n[ \t]*(?!(?i:{_CLAUSES})\b)[A-Z][a-z']*(?: [a-z]+){{2}}")
# How a text ends that is none, but what stands between two others.
_NO_END = re.compile(r"(?:[=<>(,]|\b(?:AND|OR|LIKE|IN))\s*'\Z")
# Before what a text that lacks its closing quote has most likely ended.
_NEXT = re.compile(r"\s+(?=(?:AND|OR|GROUP|ORDER|LIMIT|HAVING|UNION|INTERSECT|EXCEPT)\b)|(?=[);\n])")


def statement(text: str, parses: Callable[[str], bool]) -> tuple[str, list[Repair]]:
    """Take the first query out of a text.

    Args:
        text: whatever a model has written.
        parses: whether something is SQL, to tell "select the funds with" from a query.
    """
    found = _quoted_to_the_end(_ended(_started(_BLANK.sub(" ", text.translate(_LETTERS)), parses)))
    return found, [Repair("text", text.strip(), found)] if found != text.strip() else []


def _started(text: str, parses: Callable[[str], bool]) -> str:
    """The text from where the query starts."""
    for first in islice(_FIRST_WORD.finditer(text), _TRIES):
        if OSA.distance(first[1], "SELECT") in (1, 2):
            return text[first.start(1) :]
    starts = [start for place in _PLACES for start in islice(_at(place, text), _TRIES)]
    for start in starts:
        if text[start : start + 4] in ("SELE", "WITH") or parses(_ended(text[start:])):
            return text[start:]
    return text[starts[0] :] if starts else re.sub(rf"\A\s*(?:{_LEAD})", "", text, flags=re.IGNORECASE)


def _at(place: re.Pattern[str], text: str) -> Iterator[int]:
    for match in place.finditer(text):
        start = match.start(1)
        if not _GOES_ON.search(text[max(0, start - 20) : start]):
            yield start


def _ended(text: str) -> str:
    """The text to where the query ends."""
    ends = [match.start() for pattern in (_MARK, _SENTENCE) if (match := pattern.search(text))]
    pieces = tokens(text[: min(ends)] if ends else text)
    end = next((i for i, piece in enumerate(pieces) if piece.text == ";"), len(pieces))
    return joined(pieces[:end])


def _quoted_to_the_end(text: str) -> str:
    """Close a quote that is left open."""
    pieces = tokens(text)
    if not pieces or not _open(pieces[-1]):
        return text
    # One that is missing further up makes texts of what stands between two others.
    for i, piece in enumerate(pieces):
        following = _NEXT.search(piece.text)
        if piece.kind == "string" and following and (_open(piece) or _NO_END.search(piece.text)):
            rest = joined([Token("sign", piece.text[following.start() :]), *pieces[i + 1 :]])
            return f"{joined(pieces[:i])} {piece.text[: following.start()]}' {rest}"
    return text + pieces[-1].text[0]


def _open(piece: Token) -> bool:
    return piece.kind in ("string", "quoted") and piece.text[0] != "[" and piece.text.count(piece.text[0]) % 2 == 1
