"""Conditions on a column with their English, by the role of the column."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from deltatune.apps.sql.synthesis.lexicon import Role, Value, literal
from deltatune.apps.sql.synthesis.scene import Attribute, Condition, Impossible, Scene, choose
from deltatune.apps.sql.synthesis.times import date_range, is_time, year_of
from deltatune.apps.sql.synthesis.words import Meaning, is_plural, listed, relative

__all__ = [
    "NUMERIC",
    "add_conditions",
    "amount",
    "be",
    "condition",
    "pin_other",
    "plausible",
    "with_article",
]

NUMERIC: tuple[Role, ...] = ("number", "level")
ASKED: tuple[Role, ...] = ("flag", "category", "text", "date", "year", "level", "number", "name")
# What a value before a noun tells: "equity funds".
KINDS = {"type", "kind", "category", "class", "state", "status", "style", "group"}
COUNTABLE = {"fee", "rate", "ratio", "price", "return", "rank", "share", "level", "limit", "amount", "yield"}
COMPARED = {
    ">": ("above", "over", "greater than", "higher than", "more than"),
    "<": ("below", "under", "less than", "lower than"),
    ">=": ("at least", "no less than"),
    "<=": ("at most", "no more than", "up to"),
}
COUNTED = {">": ("more than", "over"), "<": ("fewer than", "less than"), ">=": ("at least",), "<=": ("at most",)}


def add_conditions(scene: Scene, rng: random.Random, least: int = 0, most: int = 2, *, here: bool = False) -> None:
    """Add conditions on what the scene is about and on what it points to, each on another column.

    Args:
        scene: which gets them.
        rng: draws them.
        least: how few there may be.
        most: how many there may be.
        here: whether the first is on the first table, so that the question is surely about it.
    """
    used: set[Attribute] = set()
    for i in range(rng.randint(least, most)):
        place = [(), scene.subject] if rng.random() < 0.7 else scene.around()
        if here and i == 0:
            place = [()]
        date = scene.lexicon.date(scene.base)
        free = [
            attribute
            for attribute in scene.attributes(place, *ASKED)
            if attribute not in used and not (date and not attribute.path and is_time(scene, attribute))
        ]
        attribute = choose(rng, free)
        used.add(attribute)
        made = condition(scene, attribute, rng)
        either = rng.random() < 0.2 and made.after.startswith("whose ") and not scene.after()
        if either:
            other = condition(scene, choose(rng, [a for a in free if a != attribute and a.path == attribute.path]), rng)
            if not other.after.startswith("whose "):
                raise Impossible
            made = Condition(f"({made.sql} OR {other.sql})", after=f"{made.after} or {other.after}")
        scene.conditions.append(made)
        if either:  # "and" after "or" could be taken either way
            return


def condition(scene: Scene, attribute: Attribute, rng: random.Random, *, own: bool = False) -> Condition:
    """A condition on a column. What is said of another table's rows says whose they are, unless they are its `own`.

    Raises:
        Impossible: the column's values allow none.
    """
    made = _condition(scene, attribute, rng)
    return made if own else _owned(scene, attribute, made)


def _condition(scene: Scene, attribute: Attribute, rng: random.Random) -> Condition:
    own = scene.meaning(attribute)
    values = scene.lexicon.values(attribute.table, attribute.column)
    if not values:
        raise Impossible
    sql = scene.sql(attribute)
    if own.empty and rng.random() < 0.7 and not scene.lexicon.full(attribute.table, attribute.column):
        holds = rng.random() < 0.7
        said = f"that are {own.empty}" if holds else f"with a {own.noun} on record"
        return Condition(f"{sql} IS {'' if holds else 'NOT '}NULL", after=said)
    if not scene.lexicon.full(attribute.table, attribute.column) and rng.random() < 0.25:
        said = rng.choice((f"without a value for {own.noun}", f"whose {own.noun} is missing"))
        return Condition(f"{sql} IS NULL", after=said)
    return _MAKERS[scene.lexicon.role(attribute.table, attribute.column)](scene, attribute, own, sql, values, rng)


def pin_other(scene: Scene, rng: random.Random) -> None:
    """Name one of the other things that the first table points to: the stock of a fund's holding.

    Raises:
        Impossible: it points to no other with a name.
    """
    beside = [path for path in scene.around() if len(path) == 1]
    scene.conditions.append(condition(scene, choose(rng, scene.attributes(beside, "name")), rng))


def amount(value: Value, unit: str) -> str:
    """A number with its unit."""
    return f"{value}{unit}" if unit == "%" else f"{value} {unit}".strip()


def plausible(value: Value, rng: random.Random) -> Value:
    """A number near this one that a person would say: one or two digits that are not zero.

    Raises:
        Impossible: it is no finite number.
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Impossible
    if value == 0 or (isinstance(value, int) and abs(value) < 20):
        return int(value)
    digits = rng.choice((1, 2, 2)) - 1 - math.floor(math.log10(abs(value)))
    near = round(value, digits)
    return int(near) if near == int(near) else near


def with_article(noun: str) -> str:
    """A noun with "a" or "an" where it surely takes one."""
    head = noun.split(" of ")[0].split(" over ")[0].split(" at ")[0].split()
    if is_plural(noun) or head[-1] not in COUNTABLE:
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _owned(scene: Scene, attribute: Attribute, made: Condition) -> Condition:
    path = attribute.path
    if path in ((), scene.subject):
        return made
    if scene.lexicon.role(attribute.table, attribute.column) == "name" and made.before:  # the name alone
        said = made.before
    else:
        said = " ".join(filter(None, (made.before, scene.many(path), made.after)))
    if path[: len(scene.subject)] != scene.subject:
        return Condition(made.sql, tail=f"for {said}")
    one = scene.noun(path)
    if not made.before and made.after.startswith("whose "):
        return Condition(made.sql, after=f"whose {one}'s {made.after.removeprefix('whose ')}")
    if not made.before and made.after.startswith("with "):
        return Condition(made.sql, after=f"whose {one} has {made.after.removeprefix('with ')}")
    return Condition(made.sql, after=f"of {said}")


def be(scene: Scene, noun: str) -> str:
    """Is, are, was or were."""
    many = is_plural(noun)
    return ("were" if many else "was") if scene.past else ("are" if many else "is")


def _category(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    value = rng.choice(values)
    if rng.random() < 0.8 or len(values) < 3:
        if {own.noun.split()[-1], own.noun.split(" of ")[0]} & KINDS and rng.random() < 0.6:
            return Condition(f"{sql} = {literal(value)}", before=f"{value}")
        if rng.random() < 0.15:
            return Condition(f"{sql} <> {literal(value)}", after=f"whose {own.noun} is not {value}")
        said = rng.choice((f"whose {own.noun} is {value}", f"with {own.noun} {value}"))
        return Condition(f"{sql} = {literal(value)}", after=said)
    some = sorted(rng.sample(values, rng.choice((2, 2, 3)) if len(values) > 3 else 2), key=str)
    inside = f"({', '.join(map(literal, some))})"
    if rng.random() < 0.7:
        return Condition(f"{sql} IN {inside}", after=f"whose {own.noun} is {listed([str(x) for x in some], 'or')}")
    return Condition(f"{sql} NOT IN {inside}", after=f"whose {own.noun} is neither {' nor '.join(map(str, some))}")


def _text(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    value = rng.choice(values)
    return Condition(
        f"{sql} = {literal(value)}", after=rng.choice((f"whose {own.noun} is {value}", f"with {own.noun} {value}"))
    )


def _named(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    value = str(rng.choice(values))
    if at.path not in ((), scene.subject):
        said = rng.choice((value, f"the {scene.noun(at.path)} {value}"))
        return Condition(f"{sql} = {literal(value)}", before=said)
    word = rng.choice(value.split() or [value])
    if "%" in word or "_" in word:
        raise Impossible
    pattern, said = rng.choice(((f"%{word}%", "contains"), (f"{word}%", "starts with"), (f"%{word}", "ends with")))
    if rng.random() < 0.3:
        return Condition(f"{sql} LIKE {literal(pattern)}", after=f"whose {own.noun} matches {pattern}")
    return Condition(f"{sql} LIKE {literal(pattern)}", after=f"whose {own.noun} {said} {word}")


def _flag(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    holds = rng.random() < 0.7
    said = relative(own.clause, scene.lexicon.nouns(at.table), holds=holds)
    return Condition(f"{sql} = {int(holds)}", after=said)


def _number(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    middle = values[len(values) // 10 : max(1, len(values) - len(values) // 10)]
    if rng.random() < 0.12:
        low, high = sorted(plausible(rng.choice(middle), rng) for _ in range(2))
        if low == high:
            raise Impossible
        said = f"between {amount(low, own.unit)} and {amount(high, own.unit)}"
        text = f"whose {own.noun} {be(scene, own.noun)} {said}"
        return Condition(f"{sql} BETWEEN {literal(low)} AND {literal(high)}", after=text)
    value = plausible(rng.choice(middle), rng)
    sign = rng.choice((">", ">", ">", "<", "<", ">=", "<="))
    if own.counted:
        return Condition(
            f"{sql} {sign} {literal(value)}", after=f"with {rng.choice(COUNTED[sign])} {value} {own.counted}"
        )
    if 0 in values and rng.random() < 0.1:
        return Condition(f"{sql} <> 0", after=f"whose {own.noun} {be(scene, own.noun)} not 0")
    if value == 0 and rng.random() < 0.6:
        sign = rng.choice("><")
        word = "positive" if sign == ">" else "negative"
        return Condition(f"{sql} {sign} 0", after=f"with {word} {own.noun}")
    word = f"{rng.choice(COMPARED[sign])} {amount(value, own.unit)}"
    said = rng.choice(
        (
            f"whose {own.noun} {be(scene, own.noun)} {word}",
            f"with {with_article(own.noun)} {'of ' * (sign[1:] == '=')}{word}",
        )
    )
    return Condition(f"{sql} {sign} {literal(value)}", after=said)


def _level(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    value = rng.choice(values)
    if own.counted:
        return _number(scene, at, own, sql, values, rng)
    sign = rng.choice(("=", "=", ">=", "<="))
    word = {"=": f"{value}", ">=": f"{value} or more", "<=": f"{value} or less"}[sign]
    said = rng.choice((f"whose {own.noun} {be(scene, own.noun)} {word}", f"with {with_article(own.noun)} of {word}"))
    return Condition(f"{sql} {sign} {literal(value)}", after=said)


def _date(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    text, said = date_range(sql, values, rng)
    if own.noun.startswith("date the "):
        return Condition(
            text, after=f"{relative(own.noun.removeprefix('date '), scene.lexicon.nouns(at.table))} {said}"
        )
    return Condition(text, after=f"whose {own.noun} {be(scene, own.noun)} {said}")


def _year(
    scene: Scene, at: Attribute, own: Meaning, sql: str, values: tuple[Value, ...], rng: random.Random
) -> Condition:
    made = year_of(sql, rng.choice(values), values, rng, fixed=rng.random() < 0.5)
    return Condition(made.sql, after=f"whose {own.noun} is {made.tail.removeprefix('in ')}")


_Maker = Callable[[Scene, Attribute, Meaning, str, "tuple[Value, ...]", random.Random], Condition]
_MAKERS: dict[Role, _Maker] = {
    "category": _category,
    "date": _date,
    "flag": _flag,
    "level": _level,
    "name": _named,
    "number": _number,
    "text": _text,
    "year": _year,
}
