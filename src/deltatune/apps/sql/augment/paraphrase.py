"""Other wordings of a question by rules. What stands in the SQL as a value is never touched.

FinSQL (Zhang 2024) lets a language model write synonymous questions. Rules reach less far, but keep the meaning: each
holds only where its surroundings show which sense a word has ("over 3 million" is more than that, "return over one
year" is not).
"""

from __future__ import annotations

import datetime
import random
import re
from dataclasses import replace

import sqlglot
from sqlglot import exp

from deltatune.apps.sql.examples import Example
from deltatune.errors import ConfigError

__all__ = ["paraphrase"]

TRIES = 12  # draws for each wording that is asked for
CHANGED = 0.6  # chance of each rule to be used where it fits

# Values are hidden behind private letters, which no question has: days, numbers, and others.
_TIME, _NUMBER, _TEXT, _END = "\ue000", "\ue001", "\ue002", "\ue003"
_MARK = re.compile(f"[{_TIME}{_NUMBER}{_TEXT}](\\d+){_END}")
_NUMERIC = re.compile(r"-?\d+(?:\.\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_SOME_DAY = f"{_TIME}\\d+{_END}"

# Questions in whole, by their openings; what stands in a pair of brackets is kept.
_VALUES = (
    *("What is {0}?", "What is {0}, please?", "Show {0}.", "Please show {0}.", "Give me {0}.", "Tell me {0}."),
    *("Find {0}.", "I want to know {0}.", "Can you tell me {0}?", "Could you give me {0}?", "Report {0}."),
)
_MANY_VALUES = tuple(form for form in _VALUES if not form.startswith("What"))
_LISTS = ("List {0}.", "Show {0}.", "Name {0}.", "Find {0}.", "Give me {0}.", "Please list {0}.", "Return {0}.")
_COUNTS = (
    *("How many {0} are there?", "Count the {0}.", "What is the number of {0}?", "Give the number of {0}."),
    "Tell me how many {0} there are.",
)
_WHO = ("Which {0} {1} {2}?", "List the {0} that {1} {2}.", "Find all {0} that {1} {2}.", "What {0} {1} {2}?")
_WHOSE = ("Which {0} are there whose {1}?", "List the {0} whose {1}.", "Find all {0} whose {1}.", "Show {0} whose {1}.")
_FIRST = tuple(f"{{0}}, {verb} {{1}}." for verb in ("show", "give", "give me", "list", "find", "report"))
_OPENINGS = (
    (r"What is (the [^.?]+)\?", _VALUES),
    (r"What (?:was|are|were) (the [^.?]+)\?", _MANY_VALUES),
    (r"(?:Tell me|Give me|I need|Show|Give|Find|Get|Report|Return) (the [^.?]+)\.", _MANY_VALUES),
    (r"(?:List|Name) ((?:all|the) [^.?]+)\.", _LISTS),
    (r"How many ([^.?]+) are there\?", _COUNTS),
    (r"Count the ([^.?]+)\.", _COUNTS),
    (r"Which ([a-z ]+?) are there whose ([^,.?]+)\?", _WHOSE),
    (r"((?:On|At|As of|In|Between|From|By|For) [^,.?]+), (?:show|give|list|find) (the [^.?]+)\.", _FIRST),
    (r"Which ([a-z ]+?) (have|had) ([^.?,]+)\?", _WHO),
)
# Words in their surroundings: what the rule looks for, and what it may say; the words that fit are among those.
_HIGH, _LOW = ("highest", "largest", "greatest"), ("lowest", "smallest")
_ABOVE, _MORE = ("above", "greater than", "higher than"), ("more than", "over")
_BELOW, _LESS = ("below", "lower than"), ("less than", "under")
_LEAST, _MOST = ("at least", "no less than", "not less than"), ("at most", "no more than", "not more than", "up to")
_EACH, _SORTED = ("for each", "for every"), ("sorted by", "ordered by", "ranked by")
_FALLING, _RISING = ("in falling order", "in descending order"), ("in rising order", "in ascending order")
_WORDS = tuple(
    (re.compile(before + f"({'|'.join(words)})" + after), words)
    for before, words, after in (
        (r"(?P<b>\b(?:with|have|has|had) the )", _HIGH, r"\b"),
        (r"(?P<b>\b(?:with|have|has|had) the )", _LOW, r"\b"),
        (r"(?P<b>\b)", _HIGH, r"(?= first\b)"),
        (r"(?P<b>\b)", _LOW, r"(?= first\b)"),
        *((r"(?P<b>(?<!no )(?<!not )\b)", words, f" (?={_NUMBER})") for words in (_ABOVE, _MORE, _BELOW, _LESS)),
        *((r"(?P<b>\b)", words, f" (?={_NUMBER})") for words in (_LEAST, _MOST)),
        *((r"(?P<b>\b)", words, r"\b") for words in (_EACH, _SORTED, _FALLING, _RISING)),
        *((r"(?P<b>\bthe )", words, r"\b") for words in (("average", "mean"), ("number of", "count of"))),
        (r"(?P<b>(?<!change )\b)", ("in percent of", "as a percentage of"), r"\b"),
        (r"(?P<b>(?<!end )\b)", ("on", "at", "as of"), f" (?={_SOME_DAY}(?:[ ,.?]|$))"),
    )
)
_RANGE = re.compile(f"\\b(?:between|from) ({_SOME_DAY}) (?:and|to) ({_SOME_DAY})")


def paraphrase(example: Example, count: int, seed: int = 0, *, dates: bool = False) -> list[Example]:
    """The same question in other words, with the same SQL.

    Args:
        example: what to put otherwise.
        count: how many wordings to make; fewer where the rules reach no more.
        seed: of what is drawn.
        dates: whether a day may also be written as "June 30, 2024", as the SQL does not.

    Raises:
        ConfigError: the count is negative.
    """
    if count < 0:
        raise ConfigError(f"count: expected 0 or more, found {count}; ask for some")
    rng = random.Random(f"{example.question}:{seed}")
    hidden, values = _hide(example)
    found: dict[str, Example] = {}
    for _ in range(TRIES * count):
        said = [_spoken(value, rng) for value in values] if dates else values
        text = _shown(_reworded(_reopened(hidden, rng), rng), said)
        if text != example.question:
            found.setdefault(text, replace(example, question=text))
        if len(found) == count:
            break
    return list(found.values())


def _hide(example: Example) -> tuple[str, list[str]]:
    """The question with marks in place of values, and what the marks stand for."""
    tree = sqlglot.parse_one(example.sql, read=example.dialect)
    literals = {form for value in tree.find_all(exp.Literal) for form in (value.this, value.this.strip("%")) if form}
    known = [_DAY.pattern, *map(re.escape, sorted(literals, key=lambda value: (-len(value), value)))]
    kept: list[str] = []

    def mark(found: re.Match[str]) -> str:
        kept.append(found[0])
        kinds = ((_TIME, _DAY), (_NUMBER, _NUMERIC), (_TEXT, re.compile(".*", re.DOTALL)))
        kind = next(mark for mark, pattern in kinds if pattern.fullmatch(found[0]))
        return f"{kind}{len(kept) - 1}{_END}"

    return re.sub(rf"(?<!\w)(?:{'|'.join(known)})(?!\w)", mark, example.question), kept


def _shown(text: str, values: list[str]) -> str:
    return _MARK.sub(lambda mark: values[int(mark[1])], text)


def _reopened(text: str, rng: random.Random) -> str:
    """Another opening, where the rest of the question fits it."""
    for pattern, forms in _OPENINGS:
        found = re.fullmatch(pattern, text)
        if found and rng.random() < CHANGED:
            return rng.choice(forms).format(*found.groups())
    return text


def _reworded(text: str, rng: random.Random) -> str:
    """Other words where rules fit."""
    for pattern, words in _WORDS:
        if rng.random() < CHANGED:
            word = rng.choice(words)
            text = pattern.sub(lambda found, word=word: found[0].replace(found[2], word), text)  # type: ignore[misc]
    if rng.random() < CHANGED:
        text = _RANGE.sub(rng.choice((r"between \1 and \2", r"from \1 to \2")), text)
    return text


def _spoken(value: str, rng: random.Random) -> str:
    """A day as people write it; anything else as it is."""
    try:
        day = datetime.datetime.strptime(value, "%Y-%m-%d")
    except ValueError:
        return value
    return rng.choice((value, f"{day:%B} {day.day}, {day.year}", f"{day.day} {day:%B} {day.year}"))
