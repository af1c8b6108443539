"""From questions to prompts: what the linker keeps, the values that the question names, the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from deltatune.apps.sql.linking import Linker, ValueMatch
from deltatune.apps.sql.naming import Names, Naming
from deltatune.apps.sql.prompts.prompt import PromptStyle, Worth, write_prompt
from deltatune.apps.sql.schema import Database, Selection, everything, part_of
from deltatune.apps.sql.source import Source

__all__ = ["MATCHES", "Prompt", "Prompter", "said_values"]

MATCHES = 4
"""How many values that were found in a question a prompt shows."""


class Prompt(NamedTuple):
    """What a model is told for a question."""

    text: str
    shown: Database
    """The tables and columns that it is told of, as it is told of them."""


@dataclass(frozen=True)
class Prompter:
    """Writes the prompts of questions.

    Args:
        style: how much they tell.
        linker: what chooses tables and columns; `None` shows everything that the budget allows.
        tables: how many tables the linker keeps. Default: 3.
        columns: how many columns of each. Default: 7.
        values: whether to look for values of the database in the question. Default: true.
        names: what tables and columns are called. Default: "own".
        count: how many tokens a text has; without it the budget does not count.
    """

    style: PromptStyle = field(default_factory=PromptStyle)
    linker: Linker | None = None
    tables: int = 3
    columns: int = 7
    values: bool = True
    names: Names = "own"
    count: Callable[[str], int] | None = None

    def prompts(self, questions: Sequence[str], source: Source, evidence: Sequence[str] = ()) -> list[Prompt]:
        """The prompt of each question about one database.

        Args:
            questions: in plain language.
            source: the database.
            evidence: for each question what else one has to know. Default: nothing.

        Raises:
            DataError: a question does not fit into the budget.
        """
        matches = [source.matches(question, MATCHES) if self.values else [] for question in questions]
        kept = self._kept(questions, source, matches)
        naming = self.naming(source.schema)
        written = [
            write_prompt(
                question,
                naming.told,
                naming.selection(selection),
                dialect=source.reader.dialect,
                values=said_values(found, selection, naming),
                evidence=also,
                worth=naming.worth(worth),
                style=self.style,
                count=self.count,
            )
            for question, (selection, worth), found, also in zip(
                questions, kept, matches, evidence or [""] * len(questions), strict=True
            )
        ]
        return [Prompt(each.text, part_of(naming.told, each.shown)) for each in written]

    def naming(self, schema: Database) -> Naming:
        """What the prompts call everything in a database."""
        return Naming.of(schema, self.names)

    def _kept(
        self, questions: Sequence[str], source: Source, matches: Sequence[Sequence[ValueMatch]]
    ) -> list[tuple[Selection, Worth]]:
        """The tables and columns to show for each question, and what the linker says of them."""
        if self.linker is None:
            return [(everything(source.schema), {})] * len(questions)
        rankings = self.linker.rank(questions, source.schema)
        lifted = [ranking.lifted(found) for ranking, found in zip(rankings, matches, strict=True)]
        return [(ranking.select(self.tables, self.columns), ranking.worth()) for ranking in lifted]


def said_values(matches: Sequence[ValueMatch], selection: Selection, naming: Naming) -> list[str]:
    """Values that were found in a question as conditions, as far as their columns are shown.

    A column is called by its table if another one that is shown has the same name.
    """
    shown = Counter(naming.columns[table, column] for table, columns in selection.items() for column in columns)
    found = []
    for match in matches:
        if match.column in selection.get(match.table, ()):
            column = naming.columns[match.table, match.column]
            place = column if shown[column] == 1 else f"{naming.tables[match.table]}.{column}"
            found.append(f"{place} = '{match.value.replace(chr(39), 2 * chr(39))}'")
    return found
