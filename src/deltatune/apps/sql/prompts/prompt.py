"""The prompt of a question. The schema comes first, so that questions about the same tables begin alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from deltatune.apps.sql.prompts.schema_text import schema_text
from deltatune.apps.sql.schema import Database, Selection
from deltatune.errors import DataError

__all__ = ["PromptStyle", "Worth", "Written", "write_prompt"]

Worth: TypeAlias = Mapping[tuple[str, str], float]
"""How much a table and column are worth; 0 where nothing is said."""

NAMES = {"sqlite": "SQLite", "duckdb": "DuckDB", "postgres": "PostgreSQL"}


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How much a prompt tells.

    Args:
        comments: what tables and columns mean.
        samples: how many values of each column.
        keys: which columns are keys, and what they point to: what joins are written by.
        instruct: what is to be done, which a model that was trained for it need not be told.
        budget: tokens that a prompt may have; `None`: any number.
    """

    comments: bool = True
    samples: int = 2
    keys: bool = True
    instruct: bool = False
    budget: int | None = 1024


class Written(NamedTuple):
    """A prompt, and which tables and columns it came to show."""

    text: str
    shown: Selection


def write_prompt(
    question: str,
    schema: Database,
    selection: Selection,
    *,
    dialect: str,
    values: Sequence[str] = (),
    evidence: str = "",
    worth: Worth = MappingProxyType({}),
    style: PromptStyle = PromptStyle(),
    count: Callable[[str], int] | None = None,
) -> Written:
    """Write the prompt of a question, and keep to the budget.

    What does not fit is left out in this order: values of columns, comments, columns that are no keys, the one of least
    worth first, tables whose best column is of least worth. Of equals the last of the widest table goes first.

    Args:
        question: in plain language.
        schema: the database that it is about.
        selection: the tables and columns to show.
        dialect: sqlglot's name of the SQL to write.
        values: conditions that the question names, such as ``mf_info.fnd_abbr = 'Alpha Bond'``.
        evidence: what else one has to know.
        worth: of the columns that may be left out. Default: that of each is the same.
        style: how much to tell. Default: comments, 2 values a column, 1,024 tokens.
        count: how many tokens a text has. Default: no budget.

    Raises:
        DataError: not even the question fits.
    """
    name = NAMES.get(dialect, dialect)
    head = (
        f"Write one {name} query that answers the question. Answer with the query alone.\n\n" if style.instruct else ""
    )
    tail = _tail(question, values, evidence)
    for shown, less in _less_and_less(selection, schema, style, worth):
        about = schema_text(schema, shown, comments=less.comments, samples=less.samples, keys=less.keys)
        text = f"{head}{name} tables:\n{about}\n\n{tail}"
        if count is None or style.budget is None or count(text) <= style.budget:
            return Written(text, shown)
    raise DataError(
        f"prompt: expected a question that fits in {style.budget:,} tokens, found {question[:60]!r}; raise the budget"
    )


def _tail(question: str, values: Sequence[str], evidence: str) -> str:
    parts = [f"Values: {'; '.join(values)}"] if values else []
    parts += [f"Note: {evidence}"] if evidence else []
    return "\n".join([*parts, f"Question: {question}", "SQL:"])


def _less_and_less(
    selection: Selection, schema: Database, style: PromptStyle, worth: Worth
) -> Iterator[tuple[Selection, PromptStyle]]:
    yield selection, style
    yield selection, (style := replace(style, samples=0))
    yield selection, (style := replace(style, comments=False))
    shown = {name: list(columns) for name, columns in selection.items()}
    fixed = {
        (table.name, column.name)
        for table in schema.tables
        for column in table.columns
        if column.key or column.references
    }

    def best(table: str) -> float:
        return max((worth.get((table, column), 0.0) for column in selection[table]), default=0.0)

    while shown:
        spare = {
            table: [column for column in columns if (table, column) not in fixed] for table, columns in shown.items()
        }
        if rest := [(table, column) for table in reversed(shown) for column in reversed(spare[table])]:
            table, column = min(rest, key=lambda place: (worth.get(place, 0.0), -len(spare[place[0]])))
            shown[table].remove(column)
        else:
            del shown[min(reversed(shown), key=best)]
        yield {name: tuple(columns) for name, columns in shown.items()}, style
