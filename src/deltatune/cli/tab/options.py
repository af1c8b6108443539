"""The options that the verbs of `deltatune tab` share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from deltatune.errors import ConfigError

__all__ = ["Answers", "Data", "Model", "Query", "Question", "Target", "answers_of"]

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="The name of a data set, such as car; a .csv, .parquet or .jsonl file; or a database."
    ),
]
Target = Annotated[
    str | None, typer.Option("--target", "-t", metavar="COLUMN", help="The column of the class, in a file.")
]
Query = Annotated[str | None, typer.Option(metavar="SQL", help="That gives the rows, where DATA is a database.")]
Question = Annotated[
    str | None, typer.Option("--question", "-q", metavar="TEXT", help="What to ask about a row. Default: its class.")
]
Answers = Annotated[
    list[str],
    typer.Option(
        "--answer", "-a", metavar="CLASS=TEXT", help="What is said for a class, as 1=yes; one for each. Default: CLASS."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="tabllm or encoder, with settings: tabllm:base=smollm2,steps=100."
    ),
]


def answers_of(pairs: Sequence[str]) -> dict[str, str] | None:
    """The answers by class; `None` if there are none.

    Raises:
        ConfigError: one has another form, or a class has two.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        label, equals, text = pair.partition("=")
        if not equals or not label or not text.strip() or label in found:
            raise ConfigError(f"--answer {pair}: expected CLASS=TEXT, once for each class, as 1=yes; write it so")
        found[label] = text
    return found or None
