"""Questions for the highest and the lowest."""

from __future__ import annotations

import random

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.synthesis.conditions import add_conditions
from deltatune.apps.sql.synthesis.constructs.scenes import called, label, measure, measured, series
from deltatune.apps.sql.synthesis.lexicon import Lexicon
from deltatune.apps.sql.synthesis.phrases import finish
from deltatune.apps.sql.synthesis.scene import Impossible
from deltatune.apps.sql.synthesis.times import add_period
from deltatune.apps.sql.synthesis.words import is_plural

__all__ = ["extreme", "most", "top"]

HIGH = ("highest", "highest", "largest")
LOW = ("lowest", "lowest", "smallest")


def top(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """The first few by a number, at a date where there is one."""
    scene = measured(lexicon, rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        raise Impossible
    add_conditions(scene, rng, 0, 1)
    wanted = measure(scene, rng, full=True)
    noun, shown = called(scene, wanted, rng), label(scene)
    down, limit = rng.random() < 0.65, rng.choice((1, 3, 3, 5, 5, 10))
    ties, value = rng.random() < 0.35, rng.random() < 0.6
    rest = f"ORDER BY {scene.sql(wanted)} {'DESC' if down else 'ASC'}{f', {shown} ASC' if ties else ''} LIMIT {limit}"
    sql = scene.query(f"{shown}, {scene.sql(wanted)}" if value else shown, rest=rest)
    way, people = rng.choice(HIGH if down else LOW), scene.people()
    by = "name" if scene.name() else scene.key_noun()
    end = rng.choice((f" Ties by {by}.", f" Order ties by {by}.", f" Sort equal ones by {by}.")) if ties else ""
    has = ("had" if scene.past else "has") if limit == 1 else ("had" if scene.past else "have")
    verb = ("were" if scene.past else "are") if limit > 1 or is_plural(noun) else ("was" if scene.past else "is")
    number = "" if limit == 1 else f"{limit} "
    if limit == 1:
        forms = [
            (f"Which of the {people} {has} the {way} {noun}", f", and what {verb} it?" if value else "?"),
            (f"Find the {scene.person()} with the {way} {noun}", ", and show the value." if value else "."),
            (f"Of all {people}, name the one with the {way} {noun}", ", and show the value." if value else "."),
        ]
    else:
        which = f"{number}{people}"
        forms = [
            (f"Which {which} {has} the {way} {noun}", f", and what {verb} the values?" if value else "?"),
            (f"Show the {which} with the {way} {noun}", ", with the value." if value else "."),
            (f"List the {'top' if down else 'bottom'} {which} by {noun}", ", with the value." if value else "."),
            (
                f"Rank {people} by {noun}, {way} first, and {rng.choice(('give', 'show'))} {number.strip()}",
                ", with the value." if value else ".",
            ),
        ]
    text, close = rng.choice(forms)
    named = "" if scene.name() else f" Give the {scene.key_noun()}."
    return finish(rng, scene, text, f"{close}{named}{end}"), sql


def extreme(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """When a number of one thing was highest or lowest, and what it was."""
    scene = series(lexicon, rng, dated=True)
    who = scene.pin(rng)
    date = lexicon.date(scene.base)
    if rng.random() < 0.3:
        add_period(scene, rng, fixed=False)
    wanted = measure(scene, rng, full=True)
    noun, down = called(scene, wanted, rng), rng.random() < 0.55
    way = rng.choice(HIGH if down else LOW)
    if date is None:
        raise Impossible
    day = f"{scene.alias(())}.{quoted(date.name)}"
    value = rng.random() < 0.7
    columns = f"{day}, {scene.sql(wanted)}" if value else day
    rest = f"ORDER BY {scene.sql(wanted)} {'DESC' if down else 'ASC'} LIMIT 1"
    verb, it = ("were", "they") if is_plural(noun) else ("was", "it")
    time = "year" if lexicon.role(scene.base, date) == "year" else "date"
    text, end = rng.choice(
        (
            (
                f"{'In' if time == 'year' else 'On'} which {time} {verb} the {noun} of {who} {way}",
                f", and what {verb} {it}?" if value else "?",
            ),
            (f"When {verb} the {noun} of {who} {way}", ", and how much was it?" if value else "?"),
            (f"Find the {time} with the {way} {noun} of {who}", f", and the {noun}." if value else "."),
        )
    )
    return finish(rng, scene, text, end), scene.query(columns, rest=rest)


def most(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """All that reach the highest or lowest number there is."""
    scene = measured(lexicon, rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        raise Impossible
    add_conditions(scene, rng, 0, 1)
    wanted = measure(scene, rng, full=True)
    down = rng.random() < 0.6
    function, way = ("MAX", rng.choice(HIGH)) if down else ("MIN", rng.choice(LOW))
    if any(c.after or c.before for c in scene.conditions):
        raise Impossible
    inner = scene.twin()
    inner.conditions = list(scene.conditions)
    noun, shown = called(scene, wanted, rng), label(scene)
    test = f"{scene.sql(wanted)} = ({inner.query(f'{function}({inner.sql(wanted)})')})"
    people = scene.people()
    text = rng.choice(
        (
            f"List all {people} whose {noun} {'was' if scene.past else 'is'} the {way} of all",
            f"Find every one of the {people} that has the {way} {noun} of all",
        )
    )
    return finish(rng, scene, text, "."), scene.query(shown, where=test)
