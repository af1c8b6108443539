"""Options that several verbs of `deltatune sql` share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from deltatune.errors import ConfigError

__all__ = ["Databases", "Dataset", "Files", "Limit", "PerTemplate", "Seed", "Split", "System", "named"]

System = Annotated[Path, typer.Option("--system", "-s", metavar="FOLDER", help="What deltatune sql train made.")]
Databases = Annotated[
    list[str],
    typer.Option("--database", "-d", metavar="NAME=DB_URL", help="A database besides those trained on, or in place."),
]
Files = Annotated[
    list[Path],
    typer.Option("--file", "-f", metavar="FILE", help="Your questions: records of question, sql and database."),
]
Dataset = Annotated[
    str | None, typer.Option(metavar="LAYOUT:FOLDER:SPLIT", help="A public data set, as spider:data/spider:dev.")
]
Split = Annotated[
    str, typer.Option(metavar="NAME", help="Of the templates, where no file or data set is given: dev or test.")
]
PerTemplate = Annotated[int, typer.Option(metavar="N", min=1, help="Questions to make of each template.")]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Questions of a group at most.")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Of the questions, and of what is drawn.")]


def named(databases: Sequence[str]) -> dict[str, str]:
    """Name and address of each database.

    Raises:
        ConfigError: one is not NAME=DB_URL.
    """
    found = {}
    for text in databases:
        name, equals, address = text.partition("=")
        if not equals or not name or not address:
            raise ConfigError(f"{text}: expected NAME=DB_URL, as macro=macro.sqlite; name it so")
        found[name] = address
    return found
