"""What the writer learns: each question's prompt with the answer to write."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from deltatune.apps.sql.augment import completion
from deltatune.apps.sql.augment.joinless import without_joins
from deltatune.apps.sql.config import PromptSpec
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.linking.gold import gold
from deltatune.apps.sql.naming import Naming
from deltatune.apps.sql.prompts.prompt import write_prompt
from deltatune.apps.sql.prompts.prompting import MATCHES, said_values
from deltatune.apps.sql.prompts.selection import with_fillers
from deltatune.apps.sql.schema import Database, Selection
from deltatune.apps.sql.source import Source

__all__ = ["lessons", "shown_together"]


def lessons(
    examples: Sequence[Example],
    sources: Mapping[str, Source],
    spec: PromptSpec,
    *,
    count: Callable[[str], int] | None = None,
    seed: int = 0,
) -> Iterator[dict[str, str]]:
    """A record with prompt and completion for each example, as `deltatune train` reads them.

    Args:
        examples: questions with the queries that answer them.
        sources: the databases that they are about, by name.
        spec: what a prompt tells, and what is to be written.
        count: how many tokens a text has; without it the budget does not count.
        seed: of what is drawn. Default: 0.

    Raises:
        DataError: a query does not parse or can not be put into the database's dialect, or a question does not fit
            into the budget.
    """
    by_database: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_database[example.database].append(example)
    for name, own in by_database.items():
        source, dialect = sources[name], sources[name].reader.dialect
        needed = [gold(example, source.schema) for example in own]
        rng = random.Random(f"{seed}:{name}")
        naming = Naming.of(source.schema, spec.names)
        together = shown_together(needed, source.schema, spec, rng)
        for example, wanted, shown in zip(own, needed, together, strict=True):
            matches = source.matches(example.question, MATCHES) if spec.values else []
            prompt = write_prompt(
                example.question,
                naming.told,
                naming.selection(shown),
                dialect=dialect,
                values=said_values(matches, shown, naming),
                evidence=example.evidence,
                worth=naming.worth({(table, column): 1.0 for table, columns in wanted.items() for column in columns}),
                style=spec.style(),
                count=count,
            ).text
            sql = example.sql_for(dialect)
            sql = sql if spec.joins else without_joins(sql, dialect, source.schema)
            written = replace(example, sql=naming.tell(sql, dialect, source.schema), dialect=dialect)
            yield {"prompt": prompt, "completion": completion(written, spec.answer, naming.told)}


def shown_together(
    needed: Sequence[Selection], schema: Database, spec: PromptSpec, rng: random.Random
) -> list[Selection]:
    """What the prompt of each query shows: what it needs, and others drawn beside it.

    A query is shown what was drawn for an earlier one if that holds all it needs, up to ``spec.share`` queries each.
    Their prompts then begin alike, and training runs what they begin with once.

    Args:
        needed: the tables and columns of each query.
        schema: the database.
        spec: how many tables and columns a prompt shows, and how many queries share them.
        rng: what draws.
    """
    shown: list[Selection] = [{}] * len(needed)
    open_sets: list[tuple[Selection, int]] = []
    for number in rng.sample(range(len(needed)), len(needed)):
        place = next((at for at, (drawn, _) in enumerate(open_sets) if _holds(drawn, needed[number])), None)
        if place is None:
            drawn = with_fillers(needed[number], schema, rng, tables=spec.tables, columns=spec.columns)
            open_sets.append((drawn, spec.share))
            place = len(open_sets) - 1
        drawn, left = open_sets.pop(place)
        shown[number] = drawn
        if left > 1:
            open_sets.append((drawn, left - 1))
    return shown


def _holds(drawn: Selection, needed: Selection) -> bool:
    return all(table in drawn and set(columns) <= set(drawn[table]) for table, columns in needed.items())
