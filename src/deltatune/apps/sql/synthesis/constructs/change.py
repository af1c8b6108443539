"""Questions about the change between two dates: a table joined with itself."""

from __future__ import annotations

import random

from deltatune.apps.sql.quoting import quoted
from deltatune.apps.sql.synthesis.conditions import add_conditions
from deltatune.apps.sql.synthesis.constructs.scenes import called, label, measure, series
from deltatune.apps.sql.synthesis.lexicon import Lexicon, Link, literal
from deltatune.apps.sql.synthesis.phrases import finish
from deltatune.apps.sql.synthesis.scene import Attribute, Condition, Impossible, Scene

__all__ = ["change"]


def change(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """By how much a number has changed from one date to another, for one thing, for each, or for the first few."""
    scene = series(lexicon, rng, dated=True)
    date = lexicon.date(scene.base)
    if date is None or not lexicon.is_panel(scene.base):
        raise Impossible
    scene = Scene(lexicon, scene.base, scene.subject, letters="ab")
    wanted = measure(scene, rng, full=True)
    days = lexicon.values(scene.base, date)
    if len(days) < 2:
        raise Impossible
    old, new = sorted(rng.sample(days, 2))
    again = (Link(tuple((own, own) for own, _ in scene.subject[0].pairs), scene.base.name),)
    before, after = scene.sql(wanted), scene.sql(Attribute(again, wanted.table, wanted.column))
    day = quoted(date.name)
    scene.conditions.append(Condition(f"{scene.alias(())}.{day} = {literal(old)}"))
    tail = rng.choice((f"from {old} to {new}", f"between {old} and {new}"))
    scene.conditions.append(Condition(f"{scene.alias(again)}.{day} = {literal(new)}", tail=tail))
    noun = called(scene, wanted, rng)
    percent = lexicon.positive(wanted.table, wanted.column) and scene.meaning(wanted).unit != "%" and rng.random() < 0.5
    sql = f"100 * ({after} - {before}) / {before}" if percent else f"{after} - {before}"
    if percent and wanted.column.type != "real":
        sql = sql.replace("100 *", "100.0 *")
    unit = " in percent" if percent else ""
    alias = "growth" if percent else "chg"
    draw = rng.random()
    if draw < 0.35:
        who = scene.pin(rng)
        text, end = rng.choice(
            (
                (f"By how {'many percent' if percent else 'much'} did the {noun} of {who} change", "?"),
                (f"What was the change{unit} of the {noun} of {who}", "?"),
                (f"Calculate the change{unit} in the {noun} of {who}", "."),
            )
        )
        return finish(rng, scene, text, end), scene.query(sql)
    if rng.random() < 0.5:
        add_conditions(scene, rng, 0, 1)
    shown, people = label(scene), scene.people()
    if draw < 0.6:
        text = rng.choice(
            (
                f"Show the change{unit} of the {noun} for all {people}",
                f"For each of the {people}, give the change{unit} of the {noun}",
            )
        )
        return finish(rng, scene, text, "."), scene.query(f"{shown}, {sql}")
    down, limit = rng.random() < 0.7, rng.choice((0, 1, 3, 5))
    rest = f"ORDER BY {alias} {'DESC' if down else 'ASC'}" + (f" LIMIT {limit}" if limit else "")
    query = scene.query(f"{shown}, {sql} AS {alias}", rest=rest)
    grew, extreme = ("grew most", "largest") if down else ("grew least", "smallest")
    if not limit:
        return finish(
            rng, scene, f"Rank {people} by the change{unit} of their {noun}", f", {extreme} first, with the change."
        ), query
    number = f"{limit} " if limit > 1 else ""
    text, end = rng.choice(
        (
            (f"Which {number}{people} {grew} in {noun}{unit and ','}{unit}", ", and by how much?"),
            (
                f"Show the {number or 'one of the '}{people} with the {extreme} change{unit} of the {noun}",
                ", with the change.",
            ),
        )
    )
    return finish(
        rng, scene, text if number or text.startswith("Show") else text.replace("Which ", "Which of the ", 1), end
    ), query
