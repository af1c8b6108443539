"""Questions with their SQL, made from templates and the values that a database really holds."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence

import sqlglot

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.questions.equities import TEMPLATES as EQUITIES
from deltatune.apps.sql.questions.funds import TEMPLATES as FUNDS
from deltatune.apps.sql.questions.macro import TEMPLATES as MACRO
from deltatune.apps.sql.questions.template import Choice, Template, Value
from deltatune.apps.sql.run import Reader

__all__ = ["TEMPLATES", "Choice", "Template", "questions"]

TEMPLATES: tuple[Template, ...] = FUNDS + EQUITIES + MACRO


def questions(reader: Reader, templates: Sequence[Template], *, per_template: int = 10, seed: int = 0) -> list[Example]:
    """Fill templates with values of a database; no two examples of a template are alike.

    The same seed and the same values give the same questions, whichever kind of database holds them: only the SQL is
    written in its dialect.

    Args:
        reader: the database that the templates are about.
        templates: what to ask.
        per_template: how many examples to make of each; fewer where there are not so many.
        seed: which values and wordings are drawn.
    """
    found: list[Example] = []
    for template in templates:
        rng = random.Random(f"{template.name}:{seed}")
        pools = [_pool(slot, reader) for slot in template.slots]
        seen: dict[str, Example] = {}
        for _ in range(20 * per_template):
            if len(seen) == per_template or not all(pools):
                break
            said: dict[str, Value] = {}
            written: dict[str, Value] = {}
            for pool in pools:
                spoken, meant = rng.choice(pool)
                said, written = said | spoken, written | meant
            text = rng.choice(template.asks).format_map(said)
            words = {name: str(value) for name, value in written.items()}
            sql = template.fill(written, words).sql(dialect=reader.dialect)
            seen.setdefault(
                text,
                Example(
                    question=text,
                    sql=sql,
                    database=template.database,
                    dialect=reader.dialect,
                    difficulty=template.difficulty,
                    template=template.name,
                ),
            )
        found += seen.values()
    return found


Pool = list[tuple[dict[str, Value], dict[str, Value]]]


def _pool(slot: Choice | str, reader: Reader) -> Pool:
    """What a slot may be: what the question says, and what the SQL says."""
    if isinstance(slot, Choice):
        pairs = [value if isinstance(value, tuple) else (value, value) for value in slot.values]
        return [({slot.name: said}, {slot.name: written}) for said, written in pairs]
    result = reader.run(sqlglot.transpile(slot, read="sqlite", write=reader.dialect)[0])
    rows = sorted(tuple(_value(value) for value in row) for row in result.rows)  # databases sort letters differently
    filled = [dict(zip(result.columns, row, strict=True)) for row in rows]
    return [(values, values) for values in filled]


def _value(value: object) -> Value:
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()[:10]
    return value if isinstance(value, (int, float)) else str(value)
