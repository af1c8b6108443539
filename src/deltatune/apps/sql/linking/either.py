"""Several linkers as one: what either of them is sure of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deltatune.apps.sql.linking.ranking import Linker, Ranking
from deltatune.apps.sql.schema import Database

__all__ = ["EitherLinker"]


@dataclass(frozen=True, slots=True)
class EitherLinker:
    """The chance that one linker or another is right, as if they did not depend on each other: 1 − Π(1 − p).

    A trained linker knows what is meant in other words, one that goes by words knows the names of a schema that was
    never trained on. Where one of them is blind its scores are low, which this forgives and a mean would not.

    Args:
        linkers: two or more.
    """

    linkers: Sequence[Linker]

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        """A ranking for each question."""
        found = zip(*(linker.rank(questions, schema) for linker in self.linkers), strict=True)
        return [_either(schema, rankings) for rankings in found]


def _either(schema: Database, rankings: Sequence[Ranking]) -> Ranking:
    def chance(scores: Sequence[float]) -> float:
        return 1 - math.prod(1 - score for score in scores)

    return Ranking(
        schema,
        {table.name: chance([each.tables[table.name] for each in rankings]) for table in schema.tables},
        {
            table.name: {
                column.name: chance([each.columns[table.name][column.name] for each in rankings])
                for column in table.columns
            }
            for table in schema.tables
        },
    )
