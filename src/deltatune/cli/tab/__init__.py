"""`deltatune tab`: the rows of tables, classified by a language model that has seen few of them."""

from __future__ import annotations

import typer

from deltatune.cli.tab import eval as evaluate
from deltatune.cli.tab import fit, predict, show
from deltatune.cli.verb import add

__all__ = ["app"]

app = typer.Typer(
    name="tab",
    help="Classify the rows of tables from few examples: look at a table, fit, predict, measure.",
    epilog="Start with [bold]deltatune tab show car[/], then [bold]deltatune tab eval --help[/].",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

for _module in (show, fit, predict, evaluate):
    add(app, _module.VERB)
