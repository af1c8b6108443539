"""Questions that need window functions: steps from date to date, and the first few of each group."""

from __future__ import annotations

import random

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.synthesis.constructs.scenes import called, grouping, label, measure, measured, series
from deltatune.apps.sql.synthesis.lexicon import Lexicon
from deltatune.apps.sql.synthesis.phrases import finish
from deltatune.apps.sql.synthesis.scene import Impossible
from deltatune.apps.sql.synthesis.times import add_period
from deltatune.apps.sql.synthesis.words import plural

__all__ = ["steps", "top_of_each"]


def steps(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """How a number of one thing has changed against the date before."""
    scene = series(lexicon, rng, dated=True)
    column = lexicon.date(scene.base)
    if column is None:
        raise Impossible
    who = scene.pin(rng)
    wanted = measure(scene, rng, full=True)
    day, value, noun = f"{scene.alias(())}.{quoted(column.name)}", scene.sql(wanted), called(scene, wanted, rng)
    before = f"LAG({value}) OVER (ORDER BY {day})"
    percent = lexicon.positive(wanted.table, wanted.column) and wanted.column.type == "real" and rng.random() < 0.35
    sql = f"100 * ({value} / {before} - 1) AS growth" if percent else f"{value} - {before} AS chg"
    unit = " in percent" if percent else ""
    time = rng.choice((lexicon.step(scene.base), "date")) if lexicon.is_panel(scene.base) else "date"
    text, end = rng.choice(
        (
            (
                f"By how {'many percent' if percent else 'much'} did the {noun} of {who} change from {time} to {time}",
                "?",
            ),
            (f"{time[0].upper()}{time[1:]} by {time}, how did the {noun} of {who} change{unit}", "?"),
            (f"Show by {time} the change{unit} of the {noun} of {who} against the {time} before", "."),
            (f"For {who}, list each {time} with the change{unit} of the {noun} since the {time} before", "."),
        )
    )
    return finish(rng, scene, text, end), scene.query(f"{day}, {sql}", rest=f"ORDER BY {day}")


def top_of_each(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """The first few of each group by a number."""
    scene = measured(lexicon, rng)
    period = add_period(scene, rng)
    if not scene.one_each(period):
        raise Impossible
    wanted = measure(scene, rng, full=True)
    group, noun = grouping(scene, rng)
    shown, value = label(scene), scene.sql(wanted)
    down, limit = rng.random() < 0.75, rng.randint(1, 3)
    function = "ROW_NUMBER"
    order = f"{value} {'DESC' if down else 'ASC'}, {shown}"
    place = f"{function}() OVER (PARTITION BY {group} ORDER BY {order}) AS place"
    inner = scene.query(f"{group}, {shown}, {value}, {place}")
    names = [part.rpartition(".")[2] for part in (group, shown, value)]
    if len(set(names)) < 3:
        raise Impossible
    people, way = scene.people(), "highest" if down else "lowest"
    said = called(scene, wanted, rng)
    first = f"{limit} {people}" if limit > 1 else scene.person()
    text = rng.choice(
        (
            f"For each {noun}, show the {first} with the {way} {said}",
            f"By {noun}, list the {first} with the {way} {said}",
            f"Which {first} {'had' if scene.past else 'have' if limit > 1 else 'has'} the {way} {said} of each {noun}",
        )
    )
    by = "name" if scene.name() else plural(scene.key_noun())
    sql = f"SELECT {', '.join(names)} FROM ({inner}) AS ranked WHERE place <= {limit}"
    return finish(rng, scene, text, f", with the value; ties by {by}{'?' if text.startswith('Which') else '.'}"), sql
