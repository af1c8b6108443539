"""Questions that compute with two columns: ratios, differences, comparisons."""

from __future__ import annotations

import random

from deltatune.apps.sql.synthesis.conditions import add_conditions, be, condition
from deltatune.apps.sql.synthesis.constructs.scenes import anything, called, grouping, is_sum, label, measured, series
from deltatune.apps.sql.synthesis.lexicon import Lexicon, Link
from deltatune.apps.sql.synthesis.phrases import ask, ask_who, finish, who_phrase
from deltatune.apps.sql.synthesis.scene import Attribute, Condition, Impossible, Scene, choose
from deltatune.apps.sql.synthesis.times import add_period, is_time

__all__ = ["across", "compare", "difference", "mean_ratio", "part_of_rows", "ratio", "total_ratio"]


def ratio(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """One number in percent of another, for one thing or for each."""
    scene = _at_a_date(lexicon, rng)
    one, other = _pair(scene, rng, divide=True)
    return _for_each(scene, rng, *_percent(scene, rng, one, other))


def difference(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """One number less another, for one thing or for each."""
    scene = _at_a_date(lexicon, rng)
    one, other = _pair(scene, rng, divide=False)
    sql = f"{scene.sql(one)} - {scene.sql(other)}"
    a, b = called(scene, one, rng), called(scene, other, rng)
    said = rng.choice((f"difference between {a} and {b}", f"{a} minus {b}", f"{a} less {b}"))
    return _for_each(scene, rng, sql, said, "diff")


def total_ratio(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """A sum in percent of another sum, over all or for each group."""
    scene = measured(lexicon, rng)
    add_period(scene, rng, fixed=rng.random() < 0.7)
    one, other = _pair(scene, rng, divide=True, add=True)
    a, b = (n if n.startswith("total ") else f"total {n}" for n in (called(scene, x, rng) for x in (one, other)))
    sql = f"{_hundred(one)} * SUM({scene.sql(one)}) / SUM({scene.sql(other)})"
    if rng.random() < 0.4:
        add_conditions(scene, rng, 0, 2)
        people = scene.people()
        text = rng.choice(
            (
                f"What percentage of the {b} of {people} is their {a}?",
                f"What is the {a} of {people} in percent of their {b}?",
            )
        )
        return finish(rng, scene, text[:-1], "?"), scene.query(sql)
    group, noun = grouping(scene, rng)
    people = scene.people()
    down, ordered = rng.random() < 0.7, rng.random() < 0.5
    rest = f"GROUP BY {group}" + (f" ORDER BY share {'DESC' if down else 'ASC'}" if ordered else "")
    more = f", {'highest' if down else 'lowest'} first" if ordered else ""
    text, end = rng.choice(
        (
            (f"What is the {a} of {people} in percent of their {b} for each {noun}", "?"),
            (f"By {noun}, show the {a} of {people} as a percentage of the {b}", "."),
        )
    )
    return finish(rng, scene, text, more + end), scene.query(f"{group}, {sql}{' AS share' * ordered}", rest=rest)


def mean_ratio(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """The average of a ratio of two numbers over those that meet some conditions."""
    scene = measured(lexicon, rng)
    add_period(scene, rng, fixed=rng.random() < 0.7)
    add_conditions(scene, rng, 0, 1)
    one, other = _pair(scene, rng, divide=True)
    if one.column.type != "real":
        raise Impossible
    a, b = called(scene, one, rng), called(scene, other, rng)
    said = rng.choice((f"ratio of {a} to {b}", f"{a} divided by {b}"))
    function, word = rng.choice((("AVG", "average"), ("AVG", "mean"), ("MAX", "highest"), ("MIN", "lowest")))
    sql = f"{function}({scene.sql(one)} / {scene.sql(other)})"
    if rng.random() < 0.5:
        return ask(rng, scene, [f"{word} {said} of {scene.people()}"]), scene.query(sql)
    group, noun = grouping(scene, rng)
    text = f"By {noun}, {rng.choice(('show', 'give', 'list'))} the {word} {said} of {scene.people()}"
    return finish(rng, scene, text, "."), scene.query(f"{group}, {sql}", rest=f"GROUP BY {group}")


def compare(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Those, or how many, for which one number is above another."""
    scene = _at_a_date(lexicon, rng)
    one, other = _pair(scene, rng, divide=False)
    a, b = scene.meaning(one).noun, scene.meaning(other).noun
    sign, word = rng.choice(((">", "above"), (">", "higher than"), ("<", "below"), ("<", "lower than")))
    verb = be(scene, a)
    scene.conditions.append(
        Condition(f"{scene.sql(one)} {sign} {scene.sql(other)}", after=f"whose {a} {verb} {word} their {b}")
    )
    if rng.random() < 0.4:
        noun, follows = who_phrase(scene)
        return finish(rng, scene, f"How many {noun} {follows}", "?"), scene.query("COUNT(*)")
    return ask_who(rng, scene, ()), scene.query(label(scene))


def across(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """A number of one table against a number of another, of the same thing at the same time."""
    scene = series(lexicon, rng, dated=True)
    one, other = choose(rng, _at_the_same_time(scene))
    add_period(scene, rng)
    scene.alias(other.path)
    if rng.random() < 0.5 and lexicon.positive(other.table, other.column) and scene.meaning(one).unit != "%":
        return _for_each(scene, rng, *_percent(scene, rng, one, other))
    if rng.random() < 0.5:
        sign, word = rng.choice(((">", "above"), ("<", "below")))
        a, b = scene.meaning(one).noun, scene.meaning(other).noun
        text = f"whose {a} {be(scene, a)} {word} their {b}"
        scene.conditions.append(Condition(f"{scene.sql(one)} {sign} {scene.sql(other)}", after=text))
        return ask_who(rng, scene, ()), scene.query(label(scene))
    if rng.random() < 0.5:
        scene.conditions += [condition(scene, one, rng), condition(scene, other, rng, own=True)]
        return ask_who(rng, scene, ()), scene.query(label(scene))
    columns = f"{scene.sql(one)}, {scene.sql(other)}"
    add_conditions(scene, rng, 0, 1)
    text = f"the {scene.meaning(one).noun} and the {scene.meaning(other).noun} of all {scene.people()}"
    sql = scene.query(f"{label(scene)}, {columns}")
    return finish(rng, scene, f"{rng.choice(('Show', 'List', 'Give'))} {text}", "."), sql


def part_of_rows(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """What percentage of the rows meet a condition."""
    scene = anything(lexicon, rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        raise Impossible
    kinds = scene.attributes([()], "category", "flag", "number", "level")
    wanted = choose(rng, [a for a in kinds if not is_time(scene, a)])
    made = condition(scene, wanted, rng)
    people = scene.people()
    inside = scene.twin()
    inside.conditions = [made]
    part = inside.people()
    text = rng.choice((f"What percentage of all {people} are {part}", f"How many percent of the {people} are {part}"))
    sql = f"100.0 * SUM(CASE WHEN {made.sql} THEN 1 ELSE 0 END) / COUNT(*)"
    return finish(rng, scene, text, "?"), scene.query(sql)


def _at_a_date(lexicon: Lexicon, rng: random.Random) -> Scene:
    scene = measured(lexicon, rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        raise Impossible
    return scene


def _at_the_same_time(scene: Scene) -> list[tuple[Attribute, Attribute]]:
    """Numbers of a series with those of other series that have the same dates, of one unit."""
    lexicon, date, own = scene.lexicon, scene.lexicon.date(scene.base), scene.subject[0]
    found: list[tuple[Attribute, Attribute]] = []
    for table in lexicon.tables:
        day = lexicon.date(table)
        if table is scene.base or date is None or day is None or day.type != date.type:
            continue
        for link in lexicon.links(table):
            if link.target != own.target:
                continue
            pairs = (*((a, b) for (a, _), (b, _) in zip(own.pairs, link.pairs, strict=True)), (date.name, day.name))
            shared = set(lexicon.values(table, day)) & set(lexicon.values(scene.base, date))
            if not shared or {key.name for key in lexicon.keys(table)} != {b for _, b in pairs}:
                continue
            there = scene.attributes([(Link(pairs, table.name),)], "number")
            found += [(a, b) for a in scene.attributes([()], "number") for b in there if _alike(scene, a, b)]
    return found


def _pair(scene: Scene, rng: random.Random, *, divide: bool, add: bool = False) -> tuple[Attribute, Attribute]:
    """Two numbers of one unit in the first table; the second is above zero where one divides by it."""
    found = scene.attributes([()], "number")
    pairs = [
        (a, b)
        for a in found
        for b in found
        if a is not b
        and _alike(scene, a, b)
        and (not divide or scene.lexicon.positive(b.table, b.column))
        and (not (divide or add) or (is_sum(scene, a) and is_sum(scene, b)))
        and bool(scene.meaning(a).counted) == bool(scene.meaning(b).counted)
    ]
    return choose(rng, pairs)


def _alike(scene: Scene, one: Attribute, other: Attribute) -> bool:
    """Whether it makes sense to compare two numbers: one unit, and, of rates and prices, words that both have."""
    a, b = scene.meaning(one), scene.meaning(other)
    shared = {word for word in a.noun.split() if len(word) > 3} & set(b.noun.split())
    return a.unit == b.unit and (a.unit not in ("", "%") or bool(shared) or not one.column.comment)


def _percent(scene: Scene, rng: random.Random, one: Attribute, other: Attribute) -> tuple[str, str, str]:
    a, b = called(scene, one, rng), called(scene, other, rng)
    sql = f"{_hundred(one)} * {scene.sql(one)} / {scene.sql(other)}"
    if rng.random() < 0.3:
        plain = f"{scene.sql(one)} / {scene.sql(other)}"
        if one.column.type == "real":
            return plain, rng.choice((f"ratio of {a} to {b}", f"{a} divided by {b}")), "ratio"
    forms = (f"{a} in percent of {b}", f"{a} as a percentage of {b}", f"share of {a} in {b}, in percent,")
    return sql, rng.choice(forms), "share"


def _hundred(attribute: Attribute) -> str:
    """What makes a share a percentage; whole numbers would be divided without a remainder."""
    return "100" if attribute.column.type == "real" else "100.0"


def _for_each(scene: Scene, rng: random.Random, sql: str, said: str, alias: str) -> tuple[str, str]:
    """A computed value for one subject, for all, or for the first few."""
    draw = rng.random()
    if draw < 0.3:
        who = scene.pin(rng)
        is_ = "was" if scene.past else "is"
        text = rng.choice(
            (
                f"What {is_} the {said} of {who}?",
                f"Calculate the {said} for {who}.",
                f"For {who}, give the {said.rstrip(',')}.",
            )
        )
        return finish(rng, scene, text[:-1].rstrip(","), text[-1]), scene.query(sql)
    add_conditions(scene, rng, 0, 1)
    shown, people = label(scene), scene.people()
    named = "" if scene.name() else f" Give the {scene.key_noun()}."
    said = said.rstrip(",")
    if draw < 0.6:
        text = rng.choice(
            (
                f"Show the {said} for all {people}",
                f"For each of the {people}, what is the {said}",
                f"List all {people} with the {said}",
            )
        )
        return finish(rng, scene, text, ("?" if "what" in text else ".") + named), scene.query(f"{shown}, {sql}")
    down, limit = rng.random() < 0.7, rng.choice((0, 1, 3, 5))
    way = "highest" if down else "lowest"
    rest = f"ORDER BY {alias} {'DESC' if down else 'ASC'}" + (f" LIMIT {limit}" if limit else "")
    query = scene.query(f"{shown}, {sql} AS {alias}", rest=rest)
    if not limit:
        return finish(rng, scene, f"Rank all {people} by {said}", f", {way} first, and show it.{named}"), query
    first = f"the {limit} {people}" if limit > 1 else f"the {scene.person()}"
    text = rng.choice(
        (
            f"Find {first} with the {way} {said}",
            f"Show {first} that {'had' if scene.past else 'has' if limit == 1 else 'have'} the {way} {said}",
        )
    )
    return finish(rng, scene, text, f", with the value.{named}"), query
