"""The command line: one file a verb, each of which parses, calls the library and prints.

Verbs import what they need when they run, so that help answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import deltatune
from deltatune.cli import (
    advise,
    compare,
    compose,
    env,
    eval,
    export,
    extract,
    generate,
    info,
    merge,
    methods,
    plan,
    schema,
    sql,
    tab,
    train,
)
from deltatune.cli.verb import add

__all__ = ["app", "main"]

app = typer.Typer(
    name="deltatune",
    help="Fine-tune a transformer by attaching something small to it: train, evaluate, use, merge and ship deltas.",
    epilog="Start with [bold]deltatune train --help[/], or [bold]deltatune env[/] to see what is installed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _module in (
    plan,
    advise,
    train,
    compare,
    eval,
    generate,
    compose,
    merge,
    export,
    extract,
    info,
    methods,
    env,
    schema,
):
    add(app, _module.VERB)
app.add_typer(sql.app)
app.add_typer(tab.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"deltatune {deltatune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. Exit codes: 0; 1 for a failed run; 2 for bad input; 130 for Ctrl-C."""
    try:
        app()
    except KeyboardInterrupt:  # before a verb began, while its imports are read
        sys.exit(130)
