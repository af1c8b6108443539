"""`deltatune train`: a run from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.verb import AsJson, Verb, console, print_json


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's settings, in YAML.")],
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change a setting; the value is YAML.")
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the data, count parameters and steps, show a sample; train nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last whole checkpoint, if any.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run that is in the output folder.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train deltas as a YAML file says.

    This is enough of one:

      [cyan]base: smollm2
      delta: {method: lora, r: 8}
      data: {train: train.jsonl, eval_share: 0.1}
      output: runs/first[/]

    [bold]deltatune schema[/] lists all settings. The output folder gets the trained delta (final/), checkpoints, a log,
    the loss curve and the results.
    """
    from deltatune.train.config_file import load_config

    settings = load_config(config, set_)
    from deltatune.train import run as runs

    out = console(stderr=json)
    if dry_run:
        from deltatune.planning.dry_run import dry_run as plan_run
        from deltatune.train.folder import RunFolder

        RunFolder(Path(settings.output)).check(resume=resume, overwrite=overwrite)
        plan = plan_run(settings, console=out)
        if json:
            print_json(plan)
        return
    result = runs.run(settings, resume=resume, overwrite=overwrite, console=out)
    if json and result.is_main:
        print_json({"folder": result.folder, "final": result.final, "metrics": result.metrics})
    elif result.is_main:
        scores = [f"{name.replace('_', ' ')} {result.metrics[name]:.4f}" for name in _SHOWN if name in result.metrics]
        out.print(f"done: {', '.join(scores)}; see {result.folder}, the result is in {result.final}", soft_wrap=True)


_SHOWN = ("train_loss", "eval_loss", "eval_accuracy", "eval_macro_f1")


VERB = Verb(
    train,
    (
        ("deltatune train config.yaml --dry-run", "check everything, train nothing"),
        ("deltatune train config.yaml", "train"),
        ("deltatune train config.yaml --set train.learning_rate=3e-4 --set delta.r=16", "change settings"),
        ("deltatune train config.yaml --resume", "go on after a crash"),
        ("accelerate launch -m deltatune train config.yaml", "on several GPUs"),
    ),
)
