"""`deltatune sql train`: a linker and a model that writes SQL, from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.verb import AsJson, Verb, console, print_json


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The system's settings, in YAML.")],
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; the value is YAML.")
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is done already, and go on.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the system that is in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Train a Text-to-SQL system as a YAML file says.

    This is enough of one:

      [cyan]base: smollm2
      delta: {method: lora, r: 16, targets: all_linear}
      databases: {funds: funds.sqlite, equities: equities.sqlite}
      questions: {templates: 10, synthetic: 500}
      output: runs/sql[/]

    First the linker learns which tables and columns a question is about, then the writer learns to write the SQL. Train
    on your own questions with questions.files, or on Spider, BIRD, WikiSQL or BULL with questions.dataset;
    [bold]deltatune schema sql[/] lists all settings.
    """
    from deltatune.apps.sql.config import load_sql_config

    settings = load_sql_config(config, set_)
    from deltatune.apps.sql.system import train_system

    out = console(stderr=json)
    result = train_system(settings, resume=resume, overwrite=overwrite, console=out)
    if json and result.is_main:
        print_json({"folder": settings.output, "final": result.final, "metrics": result.metrics})
    elif result.is_main:
        out.print(
            f"done: train loss {result.metrics['train_loss']:.4f}; "
            f"ask it: deltatune sql ask DB_URL QUESTION --system {settings.output}",
            soft_wrap=True,
        )


VERB = Verb(
    train,
    (
        ("deltatune sql train sql.yaml", "train a system"),
        ("deltatune sql train sql.yaml --set delta.method=dora --set questions.synthetic=2000", "change settings"),
        ("deltatune sql train sql.yaml --resume", "go on after a crash"),
    ),
)
