"""Questions with a query in a query: above the average, those with none, those with any, the latest."""

from __future__ import annotations

import random

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.synthesis.conditions import add_conditions, condition
from deltatune.apps.sql.synthesis.constructs.scenes import called, label, measure, measured, series
from deltatune.apps.sql.synthesis.lexicon import Lexicon, Link, literal
from deltatune.apps.sql.synthesis.phrases import ask, ask_who, finish, who_phrase
from deltatune.apps.sql.synthesis.scene import Condition, Impossible, Scene, choose
from deltatune.apps.sql.synthesis.times import add_period
from deltatune.apps.sql.synthesis.words import is_plural

__all__ = ["above_average", "having_any", "latest", "without"]


def above_average(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Those with a number above, or below, the average of all of them."""
    scene = measured(lexicon, rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        raise Impossible
    add_conditions(scene, rng, 0, 1)
    wanted = measure(scene, rng)
    inner = scene.twin()
    inner.conditions = list(scene.conditions)
    mean = inner.query(f"AVG({inner.sql(wanted)})")
    sign, word = rng.choice(((">", "above"), (">", "higher than"), ("<", "below"), ("<", "lower than")))
    noun, of_them = called(scene, wanted, rng), scene.people()
    verb = ("were" if is_plural(noun) else "was") if scene.past else ("are" if is_plural(noun) else "is")
    whole = rng.choice(
        ("the average", "the mean", f"the average of all {of_them}" if len(of_them) < 40 else "the average")
    )
    scene.conditions.append(
        Condition(f"{scene.sql(wanted)} {sign} ({mean})", after=f"whose {noun} {verb} {word} {whole}")
    )
    if rng.random() < 0.3:
        said, follows = who_phrase(scene)
        return finish(rng, scene, f"How many {said} {follows}", "?"), scene.query("COUNT(*)")
    value = rng.random() < 0.5
    sql = scene.query(", ".join([label(scene), *([scene.sql(wanted)] if value else [])]))
    return ask_who(rng, scene, (noun,) if value else ()), sql


def without(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Those that a table has no row of, or none of a kind."""
    scene, link, rows = _held(lexicon, rng)
    said = _narrowed(rows, rng)
    key = f"{scene.alias(())}.{quoted(link.pairs[0][1])}"
    if rng.random() < 0.6:
        test = f"{key} NOT IN ({rows.query(rows.key()[0])})"
    else:
        test = f"NOT EXISTS ({rows.query('1', where=f'{rows.key()[0]} = {key}')})"
    if rng.random() < 0.4:
        add_conditions(scene, rng, 0, 1)
    after = rng.choice((f"without any {said}", f"with no {said}", f"that have no {said}"))
    scene.conditions.append(Condition(test, after=after))
    return _asked(scene, rng)


def having_any(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """Those that a table has at least one row of some kind of."""
    scene, link, rows = _held(lexicon, rng)
    said = _narrowed(rows, rng, least=1)
    key = f"{scene.alias(())}.{quoted(link.pairs[0][1])}"
    if rng.random() < 0.75:
        test = f"{key} IN ({rows.query(rows.key()[0])})"
    else:
        test = f"EXISTS ({rows.query('1', where=f'{rows.key()[0]} = {key}')})"
    if rng.random() < 0.4:
        add_conditions(scene, rng, 0, 1)
    after = rng.choice((f"that have {said}", f"with at least one of the {said}", f"with any {said}"))
    scene.conditions.append(Condition(test, after=after))
    return _asked(scene, rng)


def latest(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """A number at the latest date there is, of all or of each."""
    scene = series(lexicon, rng, dated=True)
    date = lexicon.date(scene.base)
    if date is None:
        raise Impossible
    wanted = measure(scene, rng)
    noun = called(scene, wanted, rng)
    day, table = quoted(date.name), quoted(scene.base.name)
    here = f"{scene.alias(())}.{day}"
    time = "year" if lexicon.role(scene.base, date) == "year" else "date"
    if rng.random() < 0.4:
        who = scene.pin(rng)
        rest = f"ORDER BY {here} DESC LIMIT 1"
        if rng.random() < 0.5:
            return finish(rng, scene, f"What is the latest {noun} of {who}", "?"), scene.query(
                scene.sql(wanted), rest=rest
            )
        text = f"Show the latest {noun} of {who} and its {time}"
        return finish(rng, scene, text, "."), scene.query(f"{here}, {scene.sql(wanted)}", rest=rest)
    if rng.random() < 0.3:
        about = scene.attributes(
            [scene.subject, *scene.around()], "category", "flag", "level", "number", "date", "name"
        )
        scene.conditions.append(condition(scene, choose(rng, about), rng))
    shown, own, until = label(scene), scene.subject[0].pairs[0][0], ""
    overall = lexicon.is_panel(scene.base) and rng.random() < 0.6
    if overall:
        test = f"{here} = (SELECT MAX({day}) FROM {table})"
    else:
        same = f"x.{quoted(own)} = {scene.alias(())}.{quoted(own)}"
        if rng.random() < 0.4:
            day_of = choose(rng, lexicon.values(scene.base, date))
            same += f" AND x.{day} <= {literal(day_of)}"
            until = rng.choice((f" up to {day_of}", f" on or before {day_of}", f" as of {day_of}"))
        test = f"{here} = (SELECT MAX(x.{day}) FROM {table} AS x WHERE {same})"
    scene.conditions.append(Condition(test))
    people = scene.people()
    sql = scene.query(f"{shown}, {scene.sql(wanted)}")
    if overall:
        when = f"at the latest {time} in the data"
        text = rng.choice((f"Show the {noun} of all {people} {when}", f"For all {people}, give the {noun} {when}"))
    else:
        text = rng.choice(
            (
                f"Show the latest {noun} of each of the {people}{until}",
                f"For each of the {people}, give the most recent {noun}{until}",
            )
        )
    if not scene.name():
        text += f", with the {scene.key_noun()}"
    return finish(rng, scene, text, "."), sql


def _held(lexicon: Lexicon, rng: random.Random) -> tuple[Scene, Link, Scene]:
    """An entity, the link to it of another table, and that table's rows."""
    found = [
        (target, link, table)
        for table in lexicon.tables
        for link in lexicon.links(table)
        for target in (lexicon.table(link.target),)
        if target is not table
        and lexicon.is_entity(target)
        and len(link.pairs) == 1
        and lexicon.full(table, table.column(link.pairs[0][0]))
    ]
    target, link, table = choose(rng, found)
    scene = Scene(lexicon, target)
    return scene, link, Scene(lexicon, table, (link,), scene.aliases())


def _narrowed(rows: Scene, rng: random.Random, least: int = 0) -> str:
    """Conditions on the rows of the other table; returns what the rows are called with them."""
    date = rows.lexicon.date(rows.base)
    if date and rng.random() < 0.6:
        add_period(rows, rng, fixed=rng.random() < 0.6)
    for _ in range(max(least, rng.choice((0, 1)))):
        free = rows.attributes([()], "category", "number", "level", "flag")
        rows.conditions.append(condition(rows, choose(rng, [a for a in free if a.column != date]), rng))
    if rows.paths() != ((),):
        raise Impossible
    said = f"{rows.phrase(rows.lexicon.rows(rows.base))} {rows.tail()}".strip()
    rows.conditions = [Condition(c.sql) for c in rows.conditions]
    return said


def _asked(scene: Scene, rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.25:
        noun, follows = who_phrase(scene)
        if rng.random() < 0.5:
            return ask(rng, scene, [f"number of {scene.people()}"]), scene.query("COUNT(*)")
        return finish(rng, scene, f"How many {noun} {follows}", "?"), scene.query("COUNT(*)")
    return ask_who(rng, scene, ()), scene.query(label(scene))
