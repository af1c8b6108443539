"""How much of what a query needs a linker finds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.linking.gold import gold, schema_of
from deltatune.apps.sql.linking.ranking import Linker, Ranking
from deltatune.apps.sql.schema import Database, Selection
from deltatune.errors import ConfigError, DataError

__all__ = ["Recall", "covers", "recall"]


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares from 0 to 1.

    Args:
        questions: how many were asked.
        tables: of the tables that the queries use, the share among the best k.
        columns: of the columns that they use, the share among the best k of their own table.
        whole: the share of questions for which the selection holds all that the query uses.
    """

    questions: int
    tables: Mapping[int, float]
    columns: Mapping[int, float]
    whole: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    def __rich__(self) -> Table:
        table = Table("k", *map(str, self.tables), title=f"{self.questions:,} questions, {self.whole:.1%} whole")
        table.add_row("tables", *(f"{share:.1%}" for share in self.tables.values()))
        table.add_row("columns", *(f"{share:.1%}" for share in self.columns.values()))
        return table


def recall(
    linker: Linker,
    examples: Sequence[Example],
    schemas: Mapping[str, Database],
    *,
    ks: Sequence[int] = (1, 2, 3, 5, 7, 10),
    tables: int = 3,
    columns: int = 7,
) -> Recall:
    """Measure a linker.

    Args:
        linker: which one.
        examples: questions with the queries that answer them.
        schemas: the databases that they are about, by name.
        ks: how many of the best to look at.
        tables: how many tables the selection keeps. Default: 3.
        columns: how many columns of each. Default: 7.

    Raises:
        ConfigError: there are no examples.
        DataError: a query does not parse or reads no table of its database, or its schema is missing.
    """
    if not examples:
        raise ConfigError("recall: expected examples, found none; give some")
    asked: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        asked[schema_of(example, schemas).name].append(example)
    table_places: list[int] = []
    column_places: list[int] = []
    whole = 0
    for group in asked.values():
        schema = schema_of(group[0], schemas)
        for example, ranking in zip(group, linker.rank([each.question for each in group], schema), strict=True):
            wanted = gold(example, schema)
            if not wanted:
                raise DataError(
                    f"{example.database}: expected SQL that reads its tables, found {example.sql[:80]!r}; correct it"
                )
            table_places += [ranking.best_tables().index(table) for table in wanted]
            column_places += _column_places(ranking, wanted)
            whole += covers(ranking.select(tables, columns), wanted)
    return Recall(
        len(examples),
        {k: _share(table_places, k) for k in ks},
        {k: _share(column_places, k) for k in ks},
        whole / len(examples),
    )


def covers(selection: Selection, wanted: Selection) -> bool:
    """Whether a selection holds all of another one."""
    return all(table in selection and set(columns) <= set(selection[table]) for table, columns in wanted.items())


def _column_places(ranking: Ranking, wanted: Selection) -> list[int]:
    return [
        place
        for table, columns in wanted.items()
        for place, c in enumerate(ranking.best_columns(table))
        if c in columns
    ]


def _share(places: Sequence[int], k: int) -> float:
    return sum(place < k for place in places) / len(places) if places else 1.0
