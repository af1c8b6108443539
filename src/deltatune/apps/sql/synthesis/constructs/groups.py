"""Questions with groups: by category, by those that a series is about, by year or month."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from deltatune.apps.sql.synthesis.conditions import add_conditions, amount, condition, plausible
from deltatune.apps.sql.synthesis.constructs.scenes import (
    called,
    function_of,
    grouping,
    label,
    measure,
    measured,
    rows_of,
    series,
)
from deltatune.apps.sql.synthesis.lexicon import Lexicon, literal
from deltatune.apps.sql.synthesis.phrases import aggregated, finish
from deltatune.apps.sql.synthesis.scene import Attribute, Condition, Impossible, Scene, choose
from deltatune.apps.sql.synthesis.times import add_period, is_time
from deltatune.apps.sql.synthesis.words import is_plural, listed, plural

__all__ = ["by_category", "by_subject", "by_time"]

ALIASES = {"COUNT": "cnt", "SUM": "total", "AVG": "mean", "MAX": "best", "MIN": "least"}


@dataclass(frozen=True, slots=True)
class _Groups:
    """What is shown of each group.

    Args:
        shown: the columns that tell which group it is, in SQL.
        keys: what is grouped by, in SQL.
        noun: what a group is called.
        parts: aggregates in SQL, each with its English.
        having: the HAVING clause, if there is one.
        only: its English.
    """

    shown: tuple[str, ...]
    keys: tuple[str, ...]
    noun: str
    parts: list[tuple[str, str]]
    having: str = ""
    only: str = ""

    def query(self, scene: Scene, *, first: str = "", rest: str = "") -> str:
        """The query, in which the first aggregate may have a name."""
        aggregates = [sql for sql, _ in self.parts]
        aggregates[0] += f" AS {first}" if first else ""
        clauses = [f"GROUP BY {', '.join(self.keys)}", self.having, rest]
        return scene.query(", ".join([*self.shown, *aggregates]), rest=" ".join(filter(None, clauses)))

    @property
    def short(self) -> str:
        """What a group is called, without the conditions on it."""
        return re.split(r" (?:with|whose|that|where|of) ", self.noun)[0]

    @property
    def many(self) -> str:
        """What several groups are called."""
        return plural(self.short) + self.noun.removeprefix(self.short)


def by_category(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Counts or aggregates for each value of a column, with HAVING, an order and a limit at times."""
    counting = rng.random() < 0.4
    scene = rows_of(lexicon, rng) if counting else measured(lexicon, rng)
    add_period(scene, rng, fixed=rng.random() < 0.7)
    add_conditions(scene, rng, 0, 1)
    group, noun = grouping(scene, rng)
    if group in scene.where():
        raise Impossible
    people = scene.people()
    parts: list[tuple[str, str]] = []
    if counting:
        parts.append((_count(scene), f"number of {people}"))
    for _ in range(rng.choice((0, 1)) if counting else rng.choice((1, 1, 1, 2))):
        function, chosen = _aggregate(scene, rng)
        said = aggregated(rng, function, called(scene, chosen, rng))
        parts.append((f"{function}({scene.sql(chosen)})", said))
    if not counting:
        parts[-1] = (parts[-1][0], f"{parts[-1][1]} of {people}")
    having, only = _having(scene, rng, noun, people) if rng.random() < 0.25 else ("", "")
    return _said(scene, rng, _Groups((group,), (group,), noun, parts, having, only))


def by_subject(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """An aggregate over the rows of each one that a series is about."""
    scene = series(lexicon, rng)
    if scene.one_each(None):
        raise Impossible
    add_period(scene, rng, fixed=False)
    if rng.random() < 0.25:
        about = scene.attributes([scene.subject], "category", "flag", "level", "number", "date")
        scene.conditions.append(condition(scene, choose(rng, about), rng))
    shown = label(scene)
    keys = tuple(dict.fromkeys((*scene.key(), shown)))
    noun = scene.noun(scene.subject)
    if rng.random() < 0.25:
        parts, chosen = [("COUNT(*)", f"number of {_counted(scene, rng)}")], None
    else:
        function, chosen = _aggregate(scene, rng)
        parts = [(f"{function}({scene.sql(chosen)})", aggregated(rng, function, called(scene, chosen, rng)))]
    having, only = "", ""
    if rng.random() < 0.3:
        if chosen is None or rng.random() < 0.4:
            having, only = _having(scene, rng, noun, lexicon.rows(scene.base))
        elif function == "SUM" and not lexicon.positive(chosen.table, chosen.column):
            sign, said = rng.choice(((">", "positive"), ("<", "negative")))
            having, only = f"HAVING {parts[0][0]} {sign} 0", f", only where it is {said}"
        elif function in ("AVG", "MAX", "MIN"):
            value = plausible(choose(rng, lexicon.values(chosen.table, chosen.column)), rng)
            having = f"HAVING {parts[0][0]} > {literal(value)}"
            only = f", only where it is above {amount(value, scene.meaning(chosen).unit)}"
    return _said(scene, rng, _Groups((shown,), keys, scene.one(noun), parts, having, only))


def by_time(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Counts or aggregates by the year or the month of a date."""
    counting = rng.random() < 0.3
    scene = rows_of(lexicon, rng) if counting else measured(lexicon, rng)
    date = choose(rng, scene.attributes([()], "date", "year"))
    if scene.subject and rng.random() < 0.6:
        scene.pin(rng)
    else:
        add_conditions(scene, rng, 0, 1)
    if scene.sql(date) in scene.where():
        raise Impossible
    unit, form = rng.choice((("year", "%Y"), ("year", "%Y"), ("month", "%Y-%m")))
    noun = scene.meaning(date).noun
    if lexicon.role(date.table, date.column) == "year":
        key, shown, unit = scene.sql(date), scene.sql(date), noun
    else:
        key = f"STRFTIME('{form}', {scene.sql(date)})"
        shown = f"{key} AS {unit}"
    by = noun if shown == key else unit if date.column == lexicon.date(scene.base) else f"{unit} of the {noun}"
    if counting:
        parts = [("COUNT(*)", f"number of {scene.people()}")]
        if scene.named:
            raise Impossible
    else:
        function, chosen = _aggregate(scene, rng)
        said = aggregated(rng, function, called(scene, chosen, rng))
        parts = [(f"{function}({scene.sql(chosen)})", f"{said} of {scene.people()}")]
    if rng.random() < 0.3:
        order, said = rng.choice((("ASC", "in order of time"), ("DESC", f"latest {unit} first")))
        text = f"{rng.choice(('Show', 'List', 'Give'))} the {parts[0][1]} by {by}"
        last = key if shown == key else unit
        sql = scene.query(f"{shown}, {parts[0][0]}", rest=f"GROUP BY {key} ORDER BY {last} {order}")
        return finish(rng, scene, text, f", {said}."), sql
    return _said(scene, rng, _Groups((shown,), (key,), by, parts))


def _count(scene: Scene) -> str:
    """Subjects, each once."""
    keys = scene.key(near=True)
    return f"COUNT(DISTINCT {keys[0]})" if scene.subject and len(keys) == 1 else "COUNT(*)"


def _counted(scene: Scene, rng: random.Random) -> str:
    """Rows of the first table, at times only those that meet a condition; returns what they are called."""
    rows = Scene(scene.lexicon, scene.base)
    free = [a for a in rows.attributes([()], "category", "flag", "level", "number") if not is_time(rows, a)]
    if free and rng.random() < 0.6:
        made = condition(scene, choose(rng, free), rng)
        rows.conditions = [made]
        scene.conditions.append(Condition(made.sql))
    return rows.people()


def _aggregate(scene: Scene, rng: random.Random) -> tuple[str, Attribute]:
    chosen = measure(scene, rng)
    return function_of(scene, chosen, rng), chosen


def _having(scene: Scene, rng: random.Random, noun: str, counted: str) -> tuple[str, str]:
    least = rng.randint(2, 5)
    them = counted if len(counted) < 30 else "of them"
    said = rng.choice((f"with at least {least} {them}", f"that have {least} or more {them}"))
    several = noun if is_plural(noun) else plural(noun.split(" of ")[0])
    number = _count(scene) if counted == scene.people() else "COUNT(*)"
    return f"HAVING {number} >= {least}", f", only for {several} {said}"


def _said(scene: Scene, rng: random.Random, groups: _Groups) -> tuple[str, str]:
    """The groups in an order or in none, all or the first few."""
    if rng.random() < 0.5:
        return _every(scene, rng, groups, groups.only), groups.query(scene)
    down, limit = rng.random() < 0.7, rng.choice((0, 0, 1, 3, 5))
    way, function = "highest" if down else "lowest", groups.parts[0][0].split("(")[0]
    name = ALIASES.get(function, "amount")
    ties = " AS " not in groups.shown[0] and (function == "COUNT" or rng.random() < 0.3)
    rest = f"ORDER BY {name} {'DESC' if down else 'ASC'}{f', {groups.shown[0]} ASC' if ties else ''}"
    said = rng.choice((f", ties by {groups.short}", f", then by {groups.short}")) if ties else ""
    if limit:
        sql = groups.query(scene, first=name, rest=f"{rest} LIMIT {limit}")
        return _first(scene, rng, groups, limit, way, said), sql
    order = rng.choice((f", the {way} first", f", {way} first", f", starting with the {way}"))
    if len(groups.parts) > 1:
        order = f", ordered by the {groups.parts[0][1].split(' of ')[0]}{order}"
    return _every(scene, rng, groups, groups.only + order + said), groups.query(scene, first=name, rest=rest)


def _every(scene: Scene, rng: random.Random, groups: _Groups, more: str) -> str:
    """Ask for all groups."""
    said, noun = listed([text for _, text in groups.parts]), groups.noun
    several = len(groups.parts) > 1 or is_plural(said)
    verb = ("were" if several else "was") if scene.past else ("are" if several else "is")
    forms = [
        (f"What {verb} the {said} for each {noun}", "?"),
        (f"Show the {said} by {noun}", "."),
        (f"By {noun}, {rng.choice(('show', 'give', 'list'))} the {said}", "."),
        (f"For each {noun}, {rng.choice(('show', 'give', 'find'))} the {said}", "."),
        (f"List each {noun} with the {said}", "."),
    ]
    if len(groups.parts) == 1 and said.startswith("number of "):
        counted = said.removeprefix("number of ")
        forms += [(f"How many {counted} {'were' if scene.past else 'are'} there for each {noun}", "?")]
        forms += [(f"Count the {counted} by {noun}", ".")]
    text, end = rng.choice(forms)
    return finish(rng, scene, text, f"{more}{end}")


def _first(scene: Scene, rng: random.Random, groups: _Groups, limit: int, way: str, ties: str) -> str:
    """Ask for the first few groups."""
    said = listed([text for _, text in groups.parts])
    for words, plain, same in (
        ("highest|largest|maximum", "maximum", "highest"),
        ("lowest|smallest|minimum", "minimum", "lowest"),
    ):
        said = re.sub(rf"^({words}) ", "" if way == same else f"{plain} ", said)
    which = f"{limit} {groups.many}" if limit > 1 else groups.noun
    has = ("had" if scene.past else "have") if limit > 1 else ("had" if scene.past else "has")
    text, end = rng.choice(
        (
            (f"{rng.choice(('Show', 'Find', 'Give'))} the {which} with the {way} {said}", "."),
            (f"Which {which} {has} the {way} {said}", "?"),
        )
    )
    return finish(rng, scene, text, f"{groups.only}{ties}, {rng.choice(('and', 'with'))} the value{end}")
