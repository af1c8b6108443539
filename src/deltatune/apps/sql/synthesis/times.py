"""When: the date, year, quarter or time that a question is about."""

from __future__ import annotations

import random

from deltatune.apps.sql.synthesis.lexicon import Value, literal
from deltatune.apps.sql.synthesis.scene import Attribute, Condition, Impossible, Scene, choose

__all__ = ["add_period", "date_range", "is_time", "year_of"]

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def add_period(scene: Scene, rng: random.Random, *, fixed: bool = True) -> Attribute | None:
    """Say for which date, year or time the first table is asked, if it has one row for each; returns that column.

    Args:
        scene: which gets the condition.
        rng: draws it.
        fixed: one date; else a range.
    """
    column = scene.lexicon.date(scene.base)
    if column is None:
        return None
    date = Attribute((), scene.base, column)
    if fixed and not scene.lexicon.is_panel(scene.base):
        raise Impossible
    sql, values = scene.sql(date), scene.lexicon.values(scene.base, column)
    value = choose(rng, values)
    years = scene.attributes([()], "year")
    quarters = [a for a in scene.attributes([()], "level") if "quarter" in scene.meaning(a).noun]
    if years and quarters and rng.random() < 0.4:
        scene.conditions.append(_fiscal(scene, years[0], quarters[0], rng, fixed=fixed))
    elif scene.lexicon.role(scene.base, column) == "year":
        scene.conditions.append(year_of(sql, value, values, rng, fixed=fixed))
    elif fixed:
        word = "on" if scene.lexicon.step(scene.base) == "day" else rng.choice(("at", "on", "as of"))
        scene.conditions.append(Condition(f"{sql} = {literal(value)}", tail=f"{word} {value}"))
    else:
        text, said = date_range(sql, values, rng)
        scene.conditions.append(Condition(text, tail=said))
    return date


def is_time(scene: Scene, attribute: Attribute) -> bool:
    """Whether a column of a series tells the time, which the question says otherwise."""
    role = scene.lexicon.role(attribute.table, attribute.column)
    return (
        attribute.column == scene.lexicon.date(scene.base)
        or role == "year"
        or (role == "level" and "quarter" in scene.meaning(attribute).noun)
    )


def year_of(sql: str, value: Value, values: tuple[Value, ...], rng: random.Random, *, fixed: bool) -> Condition:
    """A year of a column that holds years: this one, or a time that starts or ends there."""
    if fixed:
        return Condition(f"{sql} = {value}", tail=f"in {value}")
    first, last = sorted((int(value), int(rng.choice(values))))
    if first != last:
        return Condition(f"{sql} BETWEEN {first} AND {last}", tail=f"between {first} and {last}")
    sign, word = rng.choice(((">", "after"), ("<", "before"), (">=", "since")))
    return Condition(f"{sql} {sign} {value}", tail=f"{word} {value}")


def _fiscal(scene: Scene, year: Attribute, quarter: Attribute, rng: random.Random, *, fixed: bool) -> Condition:
    """A quarter, or a whole year, where a table has columns for them."""
    number = rng.choice(scene.lexicon.values(year.table, year.column))
    if not fixed:
        return year_of(scene.sql(year), number, (), rng, fixed=True)
    part = rng.choice(scene.lexicon.values(quarter.table, quarter.column))
    said = rng.choice((f"in quarter {part} of {number}", f"in Q{part} {number}"))
    return Condition(f"{scene.sql(year)} = {number} AND {scene.sql(quarter)} = {part}", tail=said)


def date_range(sql: str, values: tuple[Value, ...], rng: random.Random) -> tuple[str, str]:
    """A time that some of the dates lie in: the condition, and how it is said."""
    day = str(rng.choice(values))
    year, month = day[:4], day[:7]
    other = str(rng.choice(values))
    first, last = sorted((day, other))
    if len(values) > 24 and rng.random() < 0.5:  # round days, as people choose them
        first = f"{first[:8]}01"
    ranges = [
        (f"{sql} > '{day}'", rng.choice((f"after {day}", f"later than {day}"))),
        (f"{sql} < '{day}'", rng.choice((f"before {day}", f"earlier than {day}"))),
        (f"{sql} >= '{day}'", rng.choice((f"on or after {day}", f"since {day}", f"from {day} on"))),
        (f"{sql} <= '{day}'", rng.choice((f"on or before {day}", f"up to {day}", f"until {day}"))),
        (f"STRFTIME('%Y', {sql}) = '{year}'", rng.choice((f"in {year}", f"in the year {year}"))),
        (f"STRFTIME('%Y', {sql}) = '{year}'", rng.choice((f"in {year}", f"during {year}"))),
    ]
    if first < last:
        said = rng.choice((f"between {first} and {last}", f"from {first} to {last}"))
        ranges += [(f"{sql} BETWEEN '{first}' AND '{last}'", said)] * 3
    if len(values) > 24:
        said = rng.choice((f"in {MONTHS[int(month[5:]) - 1]} {year}", f"in {month}"))
        ranges.append((f"STRFTIME('%Y-%m', {sql}) = '{month}'", said))
    return rng.choice(ranges)
