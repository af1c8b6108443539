"""Questions that combine two queries: both, either, one but not the other."""

from __future__ import annotations

import random

from deltatune.apps.sql.synthesis.conditions import condition
from deltatune.apps.sql.synthesis.constructs.scenes import series
from deltatune.apps.sql.synthesis.lexicon import Lexicon
from deltatune.apps.sql.synthesis.scene import Attribute, Condition, Impossible, Scene, choose
from deltatune.apps.sql.synthesis.times import add_period, is_time
from deltatune.apps.sql.synthesis.words import plural

__all__ = ["both"]


def both(lexicon: Lexicon, rng: random.Random) -> tuple[str, str]:
    """The keys for which rows of one kind, and (or, but not) rows of another kind exist."""
    tables = [(t, link) for t in lexicon.tables for link in lexicon.links(t) if len(link.pairs) == 1]
    if not tables:
        raise Impossible
    if rng.random() < 0.5:
        scene = series(lexicon, rng)
    else:
        table, link = choose(rng, tables)
        scene = Scene(lexicon, table, (link,))
    other = scene.twin()
    kinds = scene.attributes([()], "category", "number", "level", "flag")
    date = lexicon.date(scene.base)
    kinds = [a for a in kinds if not is_time(scene, a)]
    one = choose(rng, kinds)
    two = one if lexicon.role(one.table, one.column) == "category" else choose(rng, [a for a in kinds if a != one])
    if date:
        add_period(scene, rng, fixed=True)
    tail = scene.tail()
    scene.conditions = [Condition(c.sql) for c in scene.conditions]
    other.conditions = list(scene.conditions)
    first, second = condition(scene, one, rng), condition(other, two, rng)
    scene.conditions.append(first)
    other.conditions.append(second)
    if first.sql == second.sql or scene.paths() != ((),) or other.paths() != ((),):
        raise Impossible
    keys = (scene.key(), other.key())
    word, join = rng.choice(
        (
            ("INTERSECT", "and also"),
            ("INTERSECT", "as well as"),
            ("UNION", "or"),
            ("EXCEPT", "but no"),
            ("EXCEPT", "but not"),
        )
    )
    join = "but no" if word == "EXCEPT" else join
    noun, key = scene.noun(scene.subject), scene.key_noun()
    asked = f"{key if noun in key else f'{noun} {key}'}"
    sql = f"{scene.query(keys[0][0])} {word} {other.query(keys[1][0])}"
    period = Attribute((), scene.base, date) if date else None
    if scene.one_each(period) and first.after and second.after:
        join = "except those" if word == "EXCEPT" else join
        start = f"{rng.choice(('List', 'Find', 'Give'))} the {key} of the {plural(noun)}"
        text = f"{start} {first.after} {join} {second.after}"
        return f"{text}{f', {tail}' if tail else ''}.", sql
    rows = lexicon.rows(scene.base)
    said = f"{scene.phrase(rows)} {join} {other.phrase(rows)}"
    text = rng.choice(
        (
            f"Which {plural(asked) if ' of ' not in asked else asked} have {said}",
            f"Give the {plural(key) if ' ' not in key else key} of the {plural(noun)} that have {said}",
            f"Find the {plural(noun)}, by {key}, with {said}",
        )
    )
    end = "?" if text.startswith("Which") else "."
    if tail and rng.random() < 0.4:
        return f"{tail[0].upper()}{tail[1:]}, {text[0].lower()}{text[1:]}{end}", sql
    return f"{text}{f', {tail}' if tail else ''}{end}", sql
