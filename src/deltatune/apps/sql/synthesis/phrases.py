"""Sentences around noun phrases: asking for a value, asking who, ordering, and when it was."""

from __future__ import annotations

import random
from collections.abc import Sequence

from deltatune.apps.sql.synthesis.scene import Scene
from deltatune.apps.sql.synthesis.words import is_plural, listed

__all__ = ["AGGREGATES", "aggregated", "ask", "ask_who", "finish", "who_phrase", "with_columns"]

AGGREGATES = {
    "AVG": ("average", "average", "mean"),
    "SUM": ("total", "sum of the"),
    "MAX": ("highest", "largest", "maximum"),
    "MIN": ("lowest", "smallest", "minimum"),
}
_SUPERLATIVES = ("highest", "largest", "lowest", "smallest", "total", "average")
_ORDERS = ("Show", "Give", "Give me", "Find", "Tell me", "I need", "Report", "Get")
_LISTS = ("List", "Show", "Name", "Find", "Give me", "Return")


def ask(rng: random.Random, scene: Scene, things: Sequence[str], more: str = "") -> str:
    """Ask for one or several values, each a noun phrase without "the"; `more` follows, as an order."""
    things = [thing if thing.startswith(("each ", "the ")) else f"the {thing}" for thing in things]
    many = len(things) > 1 or is_plural(things[0].removeprefix("the "))
    verb = ("were" if many else "was") if scene.past else ("are" if many else "is")
    what = listed(things)
    if rng.random() < 0.5:
        return finish(rng, scene, f"What {verb} {what}", f"{more}?")
    return finish(rng, scene, f"{rng.choice(_ORDERS)} {what}", f"{more}.")


def who_phrase(scene: Scene) -> tuple[str, str]:
    """Those that the question is about as in "Which funds have ...?": the noun, and what follows it."""
    after = scene.after()
    of = [text for text in after if text.startswith("of ") and " that " not in text and " where " not in text]
    rest = after[len(of) :]
    noun = " ".join([*(c.before for c in scene.conditions if c.before), scene.many(scene.subject), *of])
    have, there = ("had", "were there") if scene.past else ("have", "are there")
    if rest and all(text.removeprefix("and ").startswith(("that ", "with ")) for text in rest):
        said = [
            text.replace("that ", "", 1) if "that " in text[:9] else text.replace("with ", f"{have} ", 1)
            for text in rest
        ]
        return noun, " ".join(said)
    return noun, " ".join([there, *rest])


def ask_who(rng: random.Random, scene: Scene, columns: Sequence[str], more: str = "") -> str:
    """Ask which ones there are.

    Args:
        rng: chooses the words.
        scene: whom the question is about.
        columns: what else to show of each.
        more: what follows, as an order: ", sorted by ...".
    """
    named = scene.name() is not None
    if named and rng.random() < 0.5:
        noun, follows = who_phrase(scene)
        extra = ""
        if columns:
            one = len(columns) == 1 and not is_plural(columns[0])
            verb = ("was" if one else "were") if scene.past else ("is" if one else "are")
            extra = rng.choice((f", and what {verb} their {listed(columns)}", f", with their {listed(columns)}"))
        return finish(rng, scene, f"Which {noun} {follows}", f"{extra}{more}?")
    people = scene.people()
    if not named:
        people = f"the {scene.key_noun()} of {rng.choice(('all ', ''))}{people}"
    if named and columns and rng.random() < 0.4:
        name = rng.choice(("name", "names"))
        return finish(
            rng, scene, f"{rng.choice(_LISTS[:2])} the {name} and the {listed(columns)} of {people}", f"{more}."
        )
    article = "" if not named else rng.choice(("all ", "the ", "the ", ""))
    return finish(rng, scene, f"{rng.choice(_LISTS)} {article}{people}{with_columns(rng, columns)}", f"{more}.")


def with_columns(rng: random.Random, columns: Sequence[str]) -> str:
    """What else to show of each."""
    if not columns:
        return ""
    return f"{rng.choice((' with their', ' and their', ', with their', ' together with their'))} {listed(columns)}"


def aggregated(rng: random.Random, function: str, noun: str) -> str:
    """A noun under AVG, SUM, MAX or MIN."""
    options = AGGREGATES[function]
    return f"{options[-1] if noun.startswith(_SUPERLATIVES) else rng.choice(options)} {noun}"


def finish(rng: random.Random, scene: Scene, sentence: str, end: str) -> str:
    """Put the time into a sentence, in front or behind, and end it."""
    tail = scene.tail()
    if not tail:
        return f"{sentence}{end}"
    if rng.random() < 0.25 and not sentence.startswith("I "):
        return f"{tail[0].upper()}{tail[1:]}, {sentence[0].lower()}{sentence[1:]}{end}"
    return f"{sentence} {tail}{end}"
