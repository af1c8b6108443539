"""The demo's task: read a free-text note about money, and answer with one strict JSON record.

    Lunch at Noodle Bar came to 34.50 euros on 3 March.
    {"payee": "Noodle Bar", "amount": 34.5, "currency": "EUR", "date": "03-03", "category": "meals"}

The prompt states every field, so an untrained model is told all it needs. The held-out notes are made of sentences,
payees, people and purchases that no training note holds: what carries over is the task, not the wording.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, get_args

from deltatune.demo.grammar import AMOUNT_FORMS, CATEGORIES, DATE_FORMS, MONTHS, PEOPLE, TEMPLATES, Split
from deltatune.errors import ConfigError, DataError

__all__ = ["FIELDS", "INSTRUCTION", "SIZES", "Example", "Record", "Score", "examples", "parse", "score"]

FIELDS = ("payee", "amount", "currency", "date", "category")
SIZES: dict[Split, int] = {"train": 400, "test": 100}
INSTRUCTION = (
    "Extract JSON with the keys payee, amount, currency (ISO code), date (MM-DD), "
    f"category (one of {', '.join(CATEGORIES)})."
)


class Example(TypedDict):
    """One record of the data: what the model is given, and what it is to answer."""

    prompt: str
    completion: str


class Record(TypedDict):
    """What a note says."""

    payee: str
    amount: float
    currency: str
    date: str
    category: str


@dataclass(frozen=True, slots=True)
class Score:
    """How well one output agrees with its reference.

    Args:
        exact: every field is right and there is no other.
        fields: for each of `FIELDS`, whether its value is right.
    """

    exact: bool
    fields: Mapping[str, bool]

    @property
    def accuracy(self) -> float:
        """The share of the fields that are right."""
        return sum(self.fields.values()) / len(self.fields)


def examples(split: Split, seed: int = 0, size: int | None = None) -> list[Example]:
    """Write the notes of a split with their records, the same ones for the same seed.

    Args:
        split: "train" or "test"; the two share no sentence, payee, person or purchase.
        seed: which notes are drawn.
        size: how many, no two alike. Default: `SIZES[split]`.

    Raises:
        ConfigError: the split is unknown, or the size is negative.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split: expected one of {', '.join(get_args(Split))}, found {split!r}; choose one of them")
    wanted = SIZES[split] if size is None else size
    if wanted < 0:
        raise ConfigError(f"size: expected 0 or more, found {wanted}; ask for as many notes as you need")
    # A string seeds by its bytes, so the two splits draw independently and every Python version agrees.
    rng = random.Random(f"{split}:{seed}")
    drawn: dict[str, Record] = {}
    while len(drawn) < wanted:
        note, record = _draw(split, rng)
        drawn.setdefault(note, record)
    return [
        Example(prompt=f"Note: {note}\n{INSTRUCTION}", completion=json.dumps(record, ensure_ascii=False))
        for note, record in drawn.items()
    ]


def score(prediction: str, reference: str) -> Score:
    """Compare a model's output with the reference completion.

    Generous to the model: prose or a code fence around the record, letter case, and an amount in quotes are forgiven,
    so that a difference between two models is one of understanding and not of typography.

    Args:
        prediction: all that the model wrote.
        reference: the completion of the example.

    Raises:
        DataError: the reference holds no record.
    """
    wanted = parse(reference)
    if wanted is None or set(wanted) != set(FIELDS):
        raise DataError(f"reference: expected a JSON record of {', '.join(FIELDS)}, found {reference[:60]!r}; mend it")
    found = parse(prediction) or {}
    fields = {name: _same(name, found.get(name), wanted[name]) for name in FIELDS}
    return Score(exact=all(fields.values()) and set(found) == set(FIELDS), fields=fields)


def parse(text: str) -> dict[str, Any] | None:
    """Find the first JSON object in a text that has any of the task's fields, or None."""
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):  # not JSON from here on, or absurdly deep
            continue
        if any(name in found for name in FIELDS):
            return dict(found)
    return None


def _same(name: str, found: object, wanted: object) -> bool:
    if name == "amount":
        number = _number(found)
        return number is not None and number == _number(wanted)
    return isinstance(found, str) and found.casefold().split() == str(wanted).casefold().split()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return round(float(value), 2)
    except (ValueError, OverflowError):
        return None


def _draw(split: Split, rng: random.Random) -> tuple[str, Record]:
    name, category = rng.choice(list(CATEGORIES.items()))
    currency, amount, money = _amount(category.most, rng)
    date, day = _date(rng)
    payee = rng.choice(category.payees.of(split))
    note = rng.choice(TEMPLATES.of(split)).format(
        item=rng.choice(category.items.of(split)),
        join=category.join,
        payee=payee,
        person=rng.choice(PEOPLE.of(split)),
        amount=money,
        date=day,
    )
    record = Record(payee=payee, amount=amount, currency=currency, date=date, category=name)
    return note[0].upper() + note[1:], record


def _amount(most: int, rng: random.Random) -> tuple[str, float, str]:
    """A currency, an amount in it of at most `most`, and the amount as a note writes it."""
    currency, forms = rng.choice(list(AMOUNT_FORMS.items()))
    whole = rng.random() < 0.3
    amount = rng.randint(2, most) if whole else rng.randint(200, 100 * most) / 100
    number = str(amount) if whole else f"{amount:.2f}"
    return currency, amount, rng.choice(forms).format(number=number)


def _date(rng: random.Random) -> tuple[str, str]:
    """A day as MM-DD, and as a note writes it."""
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    name = MONTHS[month - 1]
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(day % 10 if day not in (11, 12, 13) else 0, "th")
    written = rng.choice(DATE_FORMS).format(day=day, month=name, short=name[:3], ordinal=f"{day}{suffix}")
    return f"{month:02d}-{day:02d}", written
