"""Questions without groups: columns, lists, counts and aggregates."""

from __future__ import annotations

import random

from deltatune.apps.sql.synthesis.conditions import NUMERIC, add_conditions, condition, pin_other
from deltatune.apps.sql.synthesis.constructs.scenes import (
    anything,
    called,
    entity,
    function_of,
    label,
    measure,
    measured,
    rows_of,
    series,
)
from deltatune.apps.sql.synthesis.lexicon import Lexicon, Role
from deltatune.apps.sql.synthesis.phrases import aggregated, ask, ask_who, finish, who_phrase, with_columns
from deltatune.apps.sql.synthesis.scene import Attribute, Impossible, Scene, choose
from deltatune.apps.sql.synthesis.times import add_period
from deltatune.apps.sql.synthesis.words import listed

__all__ = ["aggregate", "count", "different", "listing", "lookup", "over_time", "related", "value_on"]

_SHOWN: tuple[Role, ...] = ("category", "text", "date", "year", "level", "number")


def lookup(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """One or two columns of one thing, or the name of what it belongs to."""
    scene = entity(lexicon, rng)
    names = [a for path in scene.around() for a in scene.attributes([path], "name", "text", "category")]
    if names and rng.random() < 0.35:
        wanted = [choose(rng, names)]
        nouns = [_owned(scene, wanted[0], rng)]
    else:
        free = scene.own(*_SHOWN)
        wanted = rng.sample(free, min(len(free), rng.choice((1, 1, 1, 2, 3)))) or [choose(rng, free)]
        nouns = [scene.meaning(a).noun for a in wanted]
    who = scene.pin(rng)
    sql = scene.query(", ".join(map(scene.sql, wanted)))
    if len(wanted) > 1:
        return ask(rng, scene, [*nouns[:-1], f"{nouns[-1]} of {who}"]), sql
    noun = nouns[0]
    if lexicon.role(wanted[0].table, wanted[0].column) == "date" and noun.startswith("date the "):
        said = noun.removeprefix("date ")
        return rng.choice((f"What is the date on which {said}, for {who}?", f"Give the {noun}, for {who}.")), sql
    forms = (f"What is {who}'s {noun}?", f"Which {noun} does {who} have?", f"Look up the {noun} of {who}.")
    plain = " of the " in noun or rng.random() < 0.7
    return ask(rng, scene, [f"{noun} of {who}"]) if plain else rng.choice(forms), sql


def _owned(scene: Scene, attribute: Attribute, rng: random.Random) -> str:
    """What a column of something that the subject belongs to is called: "sector of the industry"."""
    one, noun = scene.noun(attribute.path), scene.meaning(attribute).noun
    if scene.lexicon.role(attribute.table, attribute.column) == "name" and rng.random() < 0.5:
        return one
    return noun if one in noun else f"{noun} of the {one}"


def value_on(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """One or more numbers of one thing at a date."""
    scene = series(lexicon, rng)
    who = scene.pin(rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        pin_other(scene, rng)
    wanted = [measure(scene, rng)]
    if rng.random() < 0.4:
        wanted.append(measure(scene, rng, without=wanted))
    nouns = [called(scene, a, rng) for a in wanted]
    sql = scene.query(", ".join(map(scene.sql, wanted)))
    if rng.random() < 0.25:
        return finish(rng, scene, f"For {who}, {rng.choice(('show', 'give', 'find'))} the {listed(nouns)}", "."), sql
    return ask(rng, scene, [*nouns[:-1], f"{nouns[-1]} of {who}"]), sql


def listing(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Those that meet some conditions, with or without other columns, in an order or in none."""
    scene = anything(lexicon, rng)
    timed = scene.subject or (lexicon.is_panel(scene.base) and rng.random() < 0.5)
    period = add_period(scene, rng) if timed else None
    add_conditions(scene, rng, 1, 3 if period is None else 2, here=bool(scene.subject))
    shown = [] if scene.name() is None and len(scene.key()) > 1 else [label(scene)]
    free = [a for a in scene.attributes([()], *_SHOWN) if a != period]
    columns = rng.sample(free, min(len(free), max(not shown, rng.choice((0, 0, 1, 1, 2)))))
    nouns = [called(scene, a, rng) for a in columns]
    if scene.around() and rng.random() < 0.15:
        columns.append(choose(rng, scene.attributes(scene.around(), "name")))
        nouns.append(scene.noun(columns[-1].path))
    rest, more = "", ""
    sortable = [(a, n) for a, n in zip(columns, nouns, strict=True) if _sortable(lexicon, a)]
    if sortable and rng.random() < 0.5:
        chosen, noun = choose(rng, sortable)
        down = rng.random() < 0.5
        date = lexicon.role(chosen.table, chosen.column) == "date"
        first = ("latest", "highest")[not date] if down else ("earliest", "lowest")[not date]
        ties = bool(shown) and rng.random() < 0.5
        rest = f"ORDER BY {scene.sql(chosen)} {'DESC' if down else 'ASC'}{f', {shown[0]} ASC' if ties else ''}"
        more = f", {first} {noun} first"
        more += f", ties by {'name' if scene.name() else scene.key_noun()}" if ties else ""
    distinct = "DISTINCT " if scene.subject and not rest and not scene.one_each(period) else ""
    sql = scene.query(distinct + ", ".join([*shown, *map(scene.sql, columns)]), rest=rest)
    if not shown:
        return ask(rng, scene, [*nouns[:-1], f"{nouns[-1]} of all {scene.people()}"], more), sql
    return ask_who(rng, scene, nouns, more), sql


def related(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """What one thing is linked with by a table that points to both: the stocks that a fund holds."""
    tables = [table for table in lexicon.tables if not lexicon.name(table)]
    scenes = [Scene(lexicon, table, (link,)) for table in tables for link in lexicon.links(table)]
    linked = [(s, p) for s in scenes for p in s.around() if len(p) == 1 and lexicon.name(s.at(p)) and s.name()]
    scene, path = choose(rng, linked)
    who = scene.pin(rng)
    timed = lexicon.is_panel(scene.base)
    if timed:
        add_period(scene, rng)
    elif rng.random() < 0.6:
        free = scene.attributes([()], "category", "date", "flag", "level", "number")
        scene.conditions.append(condition(scene, choose(rng, free), rng))
    about = scene.after()
    (name,) = scene.attributes([path], "name")
    numbers = scene.attributes([()], *(NUMERIC if timed else _SHOWN))
    columns = rng.sample(numbers, min(len(numbers), rng.choice((0, 1, 1, 2))))
    nouns, several = [scene.meaning(a).noun for a in columns], scene.many(path)
    records = f" in the {lexicon.rows(scene.base)} {' '.join(about)}" if about else ""
    rest = ""
    text = f"{rng.choice(('List', 'Show', 'Name', 'Find'))} the {several} of {who}{records}{with_columns(rng, nouns)}"
    if columns and lexicon.role(columns[0].table, columns[0].column) == "number" and rng.random() < 0.5:
        limit = rng.choice((1, 3, 5))
        rest = f"ORDER BY {scene.sql(columns[0])} DESC LIMIT {limit}"
        which = f"{limit} {several}" if limit > 1 else scene.noun(path)
        text = f"Show the {which} of {who}{records} with the highest {nouns[0]}{with_columns(rng, nouns)}"
    sql = scene.query(", ".join(map(scene.sql, [name, *columns])), rest=rest)
    return finish(rng, scene, text, "."), sql


def count(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """How many meet some conditions."""
    scene = anything(lexicon, rng)
    period = add_period(scene, rng) if scene.subject else None
    add_conditions(scene, rng, 1 if scene.subject else 0, 2, here=bool(scene.subject))
    keys = scene.key(near=True)
    if not scene.subject or scene.one_each(period):
        counted = "COUNT(*)"
    elif len(keys) == 1:
        counted = f"COUNT(DISTINCT {keys[0]})"
    else:
        raise Impossible
    sql = scene.query(counted)
    noun, follows = who_phrase(scene)
    if rng.random() < 0.5:
        return finish(rng, scene, f"How many {noun} {follows}", "?"), sql
    people = scene.people()
    forms = (f"Count the {people}", f"Give the number of {people}", f"Find how many {noun} {follows}")
    if rng.random() < 0.3:
        return ask(rng, scene, [f"number of {people}"]), sql
    return finish(rng, scene, rng.choice(forms), "."), sql


def different(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """The different values of a column, or their number."""
    scene = rows_of(lexicon, rng)
    wanted = choose(rng, scene.attributes([()], "category", "text", "level"))
    add_conditions(scene, rng, 0, 2)
    sql, noun, people = scene.sql(wanted), scene.meaning(wanted).noun, scene.people()
    if sql in scene.where():
        raise Impossible
    if rng.random() < 0.4:
        text = rng.choice(
            (
                f"How many different values of {noun} do {people} have",
                f"How many distinct values does the {noun} of {people} take",
            )
        )
        return finish(rng, scene, text, "?"), scene.query(f"COUNT(DISTINCT {sql})")
    return ask(rng, scene, [f"different values of {noun} of {people}"]), scene.query(f"DISTINCT {sql}")


def aggregate(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """One or more aggregates over those that meet some conditions."""
    scene = measured(lexicon, rng)
    if scene.subject and not scene.one_each(None) and rng.random() < 0.5:
        scene.pin(rng)
        add_period(scene, rng, fixed=False)
    else:
        add_period(scene, rng, fixed=rng.random() < 0.6)
        add_conditions(scene, rng, 0, 2)
    wanted = [measure(scene, rng)]
    functions = [function_of(scene, wanted[0], rng)]
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        if rng.random() < 0.5:  # another column
            wanted.append(measure(scene, rng, without=wanted))
            functions.append(function_of(scene, wanted[-1], rng))
        else:
            wanted.append(wanted[-1])
            functions.append(choose(rng, [f for f in ("AVG", "MIN", "MAX") if f not in functions]))
    said = [aggregated(rng, f, called(scene, a, rng)) for f, a in zip(functions, wanted, strict=True)]
    sql = scene.query(", ".join(f"{f}({scene.sql(a)})" for f, a in zip(functions, wanted, strict=True)))
    people = scene.people()
    if rng.random() < 0.15:
        return finish(
            rng, scene, f"For {people}, {rng.choice(('give', 'calculate', 'show'))} the {listed(said)}", "."
        ), sql
    return ask(rng, scene, [*said[:-1], f"{said[-1]} of {people}"]), sql


def over_time(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """A number of one thing over time."""
    scene = series(lexicon, rng, dated=True)
    who = scene.pin(rng)
    date = add_period(scene, rng, fixed=False)
    if date is None:
        raise Impossible
    wanted = measure(scene, rng)
    noun, when = called(scene, wanted, rng), lexicon.role(date.table, date.column)
    down = rng.random() < 0.4
    order = rng.choice(
        (f"newest {when} first", "from new to old") if down else (f"oldest {when} first", "in order of time")
    )
    text = rng.choice(
        (
            f"Show the {noun} of {who} by {when}",
            f"List the {when} and the {noun} for {who}",
            f"How did the {noun} of {who} develop, by {when}",
        )
    )
    columns = f"{scene.sql(date)}, {scene.sql(wanted)}"
    sql = scene.query(columns, rest=f"ORDER BY {scene.sql(date)} {'DESC' if down else 'ASC'}")
    return finish(rng, scene, text, f", {order}{'?' if text.startswith('How') else '.'}"), sql


def _sortable(lexicon: Lexicon, attribute: Attribute) -> bool:
    role = lexicon.role(attribute.table, attribute.column)
    return role in (*NUMERIC, "date", "year") and lexicon.full(attribute.table, attribute.column)
