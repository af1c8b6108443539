"""English from the comments of a schema: what a column is called, its unit, its values, and simple grammar."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

__all__ = [
    "Meaning",
    "about_one",
    "is_plural",
    "listed",
    "meaning",
    "owner",
    "plural",
    "relative",
    "singular",
    "spoken",
]

_FLAG = re.compile(r"1 if (.+?)(?:, else 0)?")
_UNIT = re.compile(r"(%|thousand|million|billion|percent)\b.*|%.*")
_RANGE = re.compile(r" from -?\d.* to -?\d.*")
_OWNER = re.compile(
    r"(?:code|number|id|key|identifier|short name|full name|name) of the (.+)|(.+) (?:code|id|key|number)"
)
_HEAD_ENDS = re.compile(r"\s(?:of|at|in|on|over|between|from|by|for|to|with|within|without|since|outside|that)\s|\s\(")
_PARTICIPLE = re.compile(r"(?:\w+ed|\w+able|held|paid|sold|short|bought)$")
_IRREGULAR = {"index": "indices", "person": "people", "man": "men", "woman": "women", "child": "children"}
_SINGULAR = {many: one for one, many in _IRREGULAR.items()}
_ONE = {"are": "is", "were": "was", "have": "has", "do": "does"}
_VERBS = {
    "is": ("are", "are not"),
    "was": ("were", "were not"),
    "has": ("have", "do not have"),
    "can": ("can", "can not"),
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the comment of a column says.

    Args:
        noun: what the column is called, without its unit.
        unit: "%", "million" and the like.
        values: those that the comment lists.
        clause: of a column of 0 and 1, what holds where it is 1.
        empty: what holds where there is no value.
    """

    noun: str
    unit: str = ""
    values: tuple[str, ...] = ()
    clause: str = ""
    empty: str = ""

    @property
    def counted(self) -> str:
        """What is counted, of a "number of ..."; else empty."""
        return self.noun.removeprefix("number of ") if self.noun.startswith("number of ") else ""


def meaning(comment: str, name: str) -> Meaning:
    """Read a comment; where there is none, the name speaks for the column.

    Args:
        comment: as in "management fee, % a year", "1 if the fund is open, else 0", "type: equity or bond".
        name: of the column.
    """
    if flag := _FLAG.fullmatch(comment):
        return Meaning(spoken(name), clause=flag[1])
    if not comment and re.match(r"(is|has)_", name.lower()):
        return Meaning(spoken(name), clause=f"it {spoken(name)}")
    head, _, values = (comment or spoken(name)).partition(": ")
    first, *rest = head.split(", ")
    unit = next((part for part in rest if _UNIT.fullmatch(part)), "")
    empty = next((part for part in rest if part.startswith("empty if ")), "")
    more = [part for part in rest if part not in (unit, empty)]
    return Meaning(
        _RANGE.sub("", first) + (f" ({', '.join(more)})" if more else ""),
        "%" if unit.startswith(("%", "percent")) else unit,
        tuple(re.split(r", (?:or )?| or ", values)) if values else (),
        empty=empty.removeprefix("empty if "),
    )


def spoken(name: str) -> str:
    """A name of a table or column as words: "UnitPrice", "unit_price" and "Unit Price" are "unit price"."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower().split())


def owner(noun: str) -> str:
    """Whom a key tells apart: "code of the fund" and "fund code" are of the "fund"; empty if it does not say."""
    found = _OWNER.fullmatch(noun)
    return (found[1] or found[2]) if found else ""


def plural(noun: str) -> str:
    """Several of them: the last word changes."""
    rest, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("y") and last[-2:-1] not in tuple("aeiou"):
        last = f"{last[:-1]}ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        last = f"{last}es"
    else:
        last = f"{last}s"
    return rest + space + last


def singular(noun: str) -> str:
    """One of them: the last word changes, if it is a plural."""
    rest, space, last = noun.rpartition(" ")
    if last in _SINGULAR:
        last = _SINGULAR[last]
    elif last.endswith("ies"):
        last = f"{last[:-3]}y"
    elif last.endswith(("sses", "xes", "ches", "shes")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith(("ss", "us", "is")):
        last = last[:-1]
    return rest + space + last


def is_plural(noun: str) -> bool:
    """Whether a noun takes "are": its head, before "of", "in" and so on, ends like a plural."""
    words = _HEAD_ENDS.split(f"{noun} ", maxsplit=1)[0].split()
    if "and" in words:
        return True
    while len(words) > 1 and _PARTICIPLE.search(words[-1]):
        words.pop()
    return bool(words) and words[-1].endswith("s") and not words[-1].endswith(("ss", "us", "is"))


def listed(parts: Sequence[str], last: str = "and") -> str:
    """One, two or more things: "a, b and c"."""
    return f" {last} ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def relative(clause: str, nouns: Collection[str], *, holds: bool = True) -> str:
    """A clause about one as a relative clause about many: "the fund invests abroad" as "that invest abroad".

    Args:
        clause: whether it starts with one of the nouns or not.
        nouns: by which those that it is about may be called.
        holds: False for the opposite.
    """
    words = clause.split()
    if words[0] not in ("the", "it"):
        return f"that are {clause}" if holds else f"that are not {clause}"
    for size in (1, 2, 3) if words[0] == "the" else (0,):
        if words[0] == "it" or " ".join(words[1 : 1 + size]) in nouns:
            verb, rest = words[1 + size], " ".join(words[2 + size :])
            stem = verb[:-1] if verb.endswith("s") else verb
            pair = _VERBS.get(verb, (stem, f"do not {stem}"))
            return f"that {pair[not holds]} {rest}".strip()
    return f"where {clause}" if holds else f"where it is not so that {clause}"


def about_one(clause: str) -> str:
    """A relative clause about many as one about one: "that invest abroad" as "that invests abroad"."""

    def other(found: re.Match[str]) -> str:
        verb = found[1]
        kept = verb == "can" or verb.endswith("ed")
        return f"that {_ONE.get(verb, verb if kept else f'{verb}s')}"

    return re.sub(r"\bthat (\w+)", other, clause)
