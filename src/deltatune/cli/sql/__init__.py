"""`deltatune sql`: questions in plain language, answered by a database."""

from __future__ import annotations

import typer

from deltatune.cli.sql import ask, link, make, train, transfer
from deltatune.cli.sql import eval as evaluate
from deltatune.cli.verb import add

__all__ = ["app"]

app = typer.Typer(
    name="sql",
    help="Answer questions by a database: make practice data, train a system, ask it, measure it.",
    epilog="Start with [bold]deltatune sql make funds funds.sqlite[/], then [bold]deltatune sql train --help[/].",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

for _module in (make, train, link, ask, evaluate, transfer):
    add(app, _module.VERB)
