"""`deltatune tab show`: a table as a language model gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli.tab.options import Answers, Data, Model, Query, Question, Target, answers_of
from deltatune.cli.verb import AsJson, Verb, console, print_json
from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deltatune.apps.tab.preview import Preview


def show(
    data: Data,
    target: Target = None,
    row: Annotated[int, typer.Option("--row", "-r", metavar="N", min=0, help="Which row to show as text.")] = 0,
    model: Model = "tabllm",
    query: Query = None,
    question: Question = None,
    answers: Answers = [],  # noqa: B006  # typer reads it and makes a new list
    json: AsJson = False,
) -> None:
    """Show what was inferred of a table's columns, one row as text, and how many tokens rows have.

    Of the model only the tokenizer is loaded. How rows become text is a setting of it, as tabllm:serializer=list.
    """
    from deltatune.apps.tab.contenders import read_classifier
    from deltatune.apps.tab.opening import open_data
    from deltatune.apps.tab.preview import preview

    opened = open_data(data, target, query=query, question=question, answers=answers_of(answers))
    if row >= len(opened.labels):
        raise ConfigError(f"--row {row}: expected one below {len(opened.labels)}, the number of rows; lower it")
    found = preview(opened, read_classifier(model), row)
    if json:
        print_json(found.to_dict())
    else:
        _show(console(), found, row)


def _show(screen: Console, found: Preview, row: int) -> None:
    classes = ", ".join(f"{label} ({count:,})" for label, count in found.classes.items())
    screen.print(f"{found.rows:,} rows; classes: {classes}", markup=False)
    screen.print(_columns(found))
    screen.print(f"row {row}:", style="bold")
    screen.print(found.text, markup=False, soft_wrap=True)
    if found.question:
        screen.print(f"question: {found.question}", markup=False, soft_wrap=True)
    for label, said in (found.answers or {}).items():
        screen.print(f"answer for {label}: {said}", markup=False)
    counted = found.no_tokens or f"{found.tokens:,} with the question; of the longest row {found.most_tokens:,}"
    screen.print(f"tokens: {counted}", style="dim", markup=False, soft_wrap=True)


def _columns(found: Preview) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "column", "said", "kind", "unit", "nats", "what tells the kind", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for column in found.columns:
        nats = "" if column.information is None else f"{column.information:.2f}"
        reason = "; left out: ".join(filter(None, (column.reason, column.left_out)))
        table.add_row(*map(Text, (str(column.name), column.said, column.kind, column.unit, nats, reason)))
    return table


VERB = Verb(
    show,
    (
        ("deltatune tab show car", "a data set by its name"),
        ("deltatune tab show loans.csv --target paid --row 7", "a row of your own table"),
        ("deltatune tab show loans.csv --target paid --model tabllm:serializer=list", "as a list"),
    ),
)
