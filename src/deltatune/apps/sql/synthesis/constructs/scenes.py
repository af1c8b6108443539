"""Scenes to start from, and what most constructs draw: measures, labels, additive columns."""

from __future__ import annotations

import random
from collections.abc import Sequence

from deltatune.apps.sql.synthesis.conditions import NUMERIC
from deltatune.apps.sql.synthesis.lexicon import Lexicon
from deltatune.apps.sql.synthesis.scene import Attribute, Impossible, Path, Scene, choose
from deltatune.apps.sql.synthesis.times import is_time

__all__ = [
    "anything",
    "called",
    "entity",
    "function_of",
    "grouping",
    "is_sum",
    "label",
    "measure",
    "measured",
    "rows_of",
    "series",
]

_MASS = (
    "%",
    "rate",
    "ratio",
    "price",
    "rank",
    "level",
    "index",
    "average",
    "year",
    "age",
    "yield",
    "close",
    "value of a",
)


def entity(lexicon: Lexicon, rng: random.Random, *, named: bool = True) -> Scene:
    """The rows of a table that are things of their own, with names if there are such."""
    tables = [table for table in lexicon.tables if lexicon.is_entity(table)]
    if named:
        tables = [table for table in tables if lexicon.name(table)] or tables
    wide = [table for table in tables for _ in range(1 + len(table.columns) // 6)]  # more columns, more to ask
    return Scene(lexicon, choose(rng, wide))


def series(lexicon: Lexicon, rng: random.Random, *, dated: bool = False) -> Scene:
    """A table about the things of another: it is asked, they are spoken of; `dated` if it has one row for each date."""
    found: list[tuple[Scene, int]] = []
    for table in lexicon.tables:
        for link in lexicon.links(table):
            target = lexicon.table(link.target)
            # A thing with a name of its own is asked about itself, not about what it belongs to.
            if target is table or lexicon.name(table) or not lexicon.is_entity(target):
                continue
            scene, date = Scene(lexicon, table, (link,)), lexicon.date(table)
            if dated and (date is None or not scene.one_each(Attribute((), table, date))):
                continue
            if scene.attributes([()], *NUMERIC):
                found.append((scene, 2 + len(table.columns) // 6))
    return choose(rng, [scene for scene, weight in found for _ in range(weight)])


def rows_of(lexicon: Lexicon, rng: random.Random) -> Scene:
    """Rows that are counted as such: of an entity, or of any table."""
    return entity(lexicon, rng) if rng.random() < 0.7 else Scene(lexicon, choose(rng, lexicon.tables))


def anything(lexicon: Lexicon, rng: random.Random) -> Scene:
    """Either, or the rows of a table as such."""
    draw = rng.random()
    try:
        if draw < 0.4:
            return entity(lexicon, rng)
        if draw < 0.8:
            return _spoken_of(series(lexicon, rng))
    except Impossible:
        pass
    return Scene(lexicon, choose(rng, lexicon.tables))


def measured(lexicon: Lexicon, rng: random.Random) -> Scene:
    """A scene with numbers."""
    draw = rng.random()
    if draw < 0.6:
        try:
            return _spoken_of(series(lexicon, rng))
        except Impossible:
            pass
    scene = entity(lexicon, rng) if draw < 0.85 else anything(lexicon, rng)
    if not scene.attributes([()], *NUMERIC):
        raise Impossible
    return scene


def _spoken_of(scene: Scene) -> Scene:
    """The things that a series is about, if it has one row for each at a time; else the rows: orders."""
    lexicon = scene.lexicon
    return scene if lexicon.is_panel(scene.base) or scene.one_each(None) else Scene(lexicon, scene.base)


def measure(scene: Scene, rng: random.Random, *, full: bool = False, without: Sequence[Attribute] = ()) -> Attribute:
    """A number of the first table.

    Args:
        scene: that has it.
        rng: draws it.
        full: whether every row must have one.
        without: numbers that are taken.
    """
    found = [
        a
        for a in scene.attributes([()], *NUMERIC)
        if a not in without and not is_time(scene, a) and (not full or scene.lexicon.full(a.table, a.column))
    ]
    return choose(rng, found)


def called(scene: Scene, attribute: Attribute, rng: random.Random) -> str:
    """What a column is called; where tables share the words, sometimes with its table's."""
    lexicon, noun = scene.lexicon, scene.meaning(attribute).noun
    shared = any(
        lexicon.meaning(table, column).noun == noun
        for table in lexicon.tables
        if table is not attribute.table
        for column in table.columns
    )
    topic = lexicon.topic(attribute.table)
    return f"{noun} ({topic})" if shared and topic and rng.random() < 0.5 else noun


def is_sum(scene: Scene, attribute: Attribute) -> bool:
    """Whether it makes sense to add up a column: amounts and counts, not rates, prices and ranks."""
    own = scene.meaning(attribute)
    if scene.lexicon.role(attribute.table, attribute.column) != "number" and not own.counted:
        return False
    return own.unit != "%" and bool(own.counted or own.unit or not any(word in own.noun for word in _MASS))


def function_of(scene: Scene, attribute: Attribute, rng: random.Random) -> str:
    """AVG, SUM, MAX or MIN, as it suits the column."""
    return rng.choice(("AVG", "SUM", "SUM", "MAX", "MIN") if is_sum(scene, attribute) else ("AVG", "AVG", "MAX", "MIN"))


def label(scene: Scene) -> str:
    """The column that tells which subject a row is about: its name, or else its key."""
    name = scene.name()
    keys = (scene.sql(name),) if name else scene.key()
    if len(keys) != 1:
        raise Impossible
    return keys[0]


def grouping(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """A column to group by, in SQL and in English: a category, a level, or the name of what the subject belongs to."""
    found: list[tuple[Attribute, str]] = []
    places: list[Path] = [(), scene.subject, *scene.around()]
    for attribute in scene.attributes(places, "category", "level", "name"):
        role = scene.lexicon.role(attribute.table, attribute.column)
        beyond = attribute.path not in ((), scene.subject)
        if role == "name" and beyond:
            found += [(attribute, scene.noun(attribute.path))] * 2
        elif role != "name" and not scene.meaning(attribute).counted:
            noun = scene.meaning(attribute).noun
            said = f"{noun} of the {scene.noun(attribute.path)}" if beyond and " of the " not in noun else noun
            found += [(attribute, said)] * (3 if role == "category" else 1)
    attribute, said = choose(rng, found)
    return scene.sql(attribute), said
