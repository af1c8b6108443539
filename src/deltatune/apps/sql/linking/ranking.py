"""How likely each table and column of a database is part of the answer, and what of them a prompt gets to see."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from deltatune.apps.sql.linking.match import ValueMatch
from deltatune.apps.sql.schema import Database, ForeignKey, Selection, foreign_keys
from deltatune.errors import ConfigError

__all__ = ["Linker", "Ranking"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores from 0 to 1 of all tables and columns of a database, for one question.

    Args:
        schema: the database.
        tables: the score of each table.
        columns: the score of each column, by table.
    """

    schema: Database
    tables: Mapping[str, float]
    columns: Mapping[str, Mapping[str, float]]

    def best_tables(self) -> list[str]:
        """All tables, the best first; of equal ones the first in the schema."""
        return sorted(self.tables, key=lambda name: -self.tables[name])

    def best_columns(self, table: str) -> list[str]:
        """All columns of a table, the best first; of equal ones the first in the schema."""
        scores = self.columns[table]
        return sorted(scores, key=lambda name: -scores[name])

    def worth(self) -> dict[tuple[str, str], float]:
        """The score of each table and column."""
        return {(table, column): score for table, own in self.columns.items() for column, score in own.items()}

    def select(self, tables: int = 3, columns: int = 7) -> Selection:
        """The best tables with their best columns, and whatever columns it takes to join them.

        A table of which much is likely gets more columns than one of which little is, but each gets one. At the
        same number of columns this holds all that a query needs more often than as many for each table. Where a
        key leads from one chosen table to another, both of its ends are there. Where two of them are joined
        only through a third table, so are the keys of that one; of several such tables the best counts.

        Args:
            tables: how many. Default: 3, as in FinSQL (Zhang et al. 2024, https://arxiv.org/abs/2401.10506).
            columns: how many for each table on average, besides those that join. Default: 7, as there.

        Raises:
            ConfigError: a number is below 1.
        """
        for name, number in (("tables", tables), ("columns", columns)):
            if number < 1:
                raise ConfigError(f"{name}: expected at least 1, found {number}; keep more")
        chosen = self.best_tables()[:tables]
        kept = self._shared_out(chosen, tables * columns)
        keys = list(foreign_keys(self.schema))
        for bridge in self._bridges(chosen, keys):
            kept[bridge] = set()
        for (table, column), (other, target) in keys:
            if table in kept and other in kept:
                kept[table].add(column)
                kept[other].add(target)
        return {
            table.name: tuple(column.name for column in table.columns if column.name in kept[table.name])
            for table in self.schema.tables
            if table.name in kept
        }

    def _shared_out(self, tables: Sequence[str], count: int) -> dict[str, set[str]]:
        """The best columns of several tables, so many in all; each table's best one comes first."""
        kept = {table: set(self.best_columns(table)[:1]) for table in tables}
        others = [(table, column) for table in tables for column in self.best_columns(table)[1:]]
        others.sort(key=lambda place: -self.columns[place[0]][place[1]])
        for table, column in others[: count - len(tables)]:
            kept[table].add(column)
        return kept

    def lifted(self, matches: Sequence[ValueMatch]) -> Ranking:
        """The ranking with more weight on the columns that hold what the question says, and on their tables.

        A score p becomes 1 − (1 − p)(1 − m/n): either the linker is right, or the value m that was found means this
        column, one of the n that hold it.

        Args:
            matches: values of this database that were found in the question.
        """
        sharing = Counter(match.said for match in matches)
        tables = dict(self.tables)
        columns = {table: dict(scores) for table, scores in self.columns.items()}
        for match in matches:
            if match.column not in columns.get(match.table, ()):  # a server's table that went after it was indexed
                continue
            chance = match.score / sharing[match.said]
            tables[match.table] = _either(tables[match.table], chance)
            columns[match.table][match.column] = _either(columns[match.table][match.column], chance)
        return replace(self, tables=tables, columns=columns)

    def _bridges(self, chosen: Sequence[str], keys: Sequence[ForeignKey]) -> Iterator[str]:
        """The tables that join those of the chosen ones that no keys join."""
        joined = {frozenset((table, other)) for (table, _), (other, _) in keys}
        groups = {table: {table} for table in chosen}

        def unite(*tables: str) -> None:
            whole = set().union(*(groups.setdefault(table, {table}) for table in tables))
            groups.update(dict.fromkeys(whole, whole))

        for one, two in itertools.combinations(chosen, 2):
            if frozenset((one, two)) in joined:
                unite(one, two)
        for one, two in itertools.combinations(chosen, 2):
            if two in groups[one]:
                continue
            between = [t for t in self.best_tables() if {frozenset((one, t)), frozenset((t, two))} <= joined]
            if between:
                yield between[0]
                unite(one, between[0], two)


class Linker(Protocol):
    """Whatever tells which tables and columns a question is about."""

    def rank(self, questions: Sequence[str], schema: Database) -> list[Ranking]:
        """A ranking for each question."""


def _either(one: float, other: float) -> float:
    """The chance of one or the other, or both, of two things that do not depend on each other."""
    return 1 - (1 - one) * (1 - other)
