"""`deltatune advise`: which method to take, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli.models import Dtype, Quant
from deltatune.cli.verb import AsJson, Verb, check_new, console, note, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from deltatune.planning.advice import Advice, Option


def advise(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE", help="A well-known base such as llama2-7b, a folder with a config.json, a GGUF or a hub id."
        ),
    ],
    examples: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many examples there are to learn from.")
    ] = None,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="What the base is trained for. auto: what it is for.")
    ] = "auto",
    labels: Annotated[int | None, typer.Option(metavar="N", min=2, help="Classes of a classifier.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="What a device has for training.")] = None,
    tasks: Annotated[int, typer.Option(metavar="N", min=1, help="How many tasks share the base in use.")] = 1,
    merged: Annotated[bool, typer.Option("--merged", help="What is used has to be a plain model.")] = False,
    api: Annotated[bool, typer.Option("--api", help="The base's weights are out of reach, only its answers.")] = False,
    seq_len: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a text.")] = 512,
    batch_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a batch, on each device.")] = 2048,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="What trains it: cuda, mps or cpu.")] = "cuda",
    reserve: Annotated[
        str, typer.Option(metavar="SIZE", help="Of the memory, what to leave to drivers, kernels and the allocator.")
    ] = "1GB",
    top: Annotated[int, typer.Option(metavar="N", min=1, help="For how many methods to give reasons.")] = 3,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write settings for `deltatune train` to this YAML file.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="LABEL", help="With --write, of this method. Default: the best.")
    ] = None,
    data: Annotated[str, typer.Option(metavar="FILE", help="With --write, the training data.")] = "train.jsonl",
    output: Annotated[str, typer.Option(metavar="FOLDER", help="With --write, the run's folder.")] = "runs/advised",
    json: AsJson = False,
) -> None:
    """Rank the methods for what you have: base, data, memory and how the result is used.

    Each point comes from a rule, with the paper it is from; memory and file sizes are counted as `deltatune plan` does.
    """
    from deltatune.planning.advice import advise as make_advice

    found = make_advice(
        base,
        task=task,
        examples=examples,
        tasks=tasks,
        merged=merged,
        reachable=not api,
        device_memory=memory,
        seq_len=seq_len,
        batch_tokens=batch_tokens,
        dtype=dtype or "auto",  # type: ignore[arg-type]  # checked below
        quant=quant,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        reserve=reserve,
        num_labels=labels,
    )
    if write is not None:
        _write(found, write, method, data=data, output=output)
    if json:
        print_json(found.to_dict())
    else:
        _show(found, top)
    if write is not None:
        note(f"wrote {write}; train with: deltatune train {write}")


def _write(advice: Advice, file: Path, method: str | None, *, data: str, output: str) -> None:
    from deltatune.errors import ConfigError
    from deltatune.io.atomic import atomic_files
    from deltatune.planning.settings_of import run_settings

    check_new("--write", file)
    option = None
    if method is not None:
        labels = [option.label for option in advice.options]
        if method not in labels:
            raise ConfigError(f"--method: expected one of {', '.join(labels)}, found {method!r}; choose one of them")
        option = advice.options[labels.index(method)]
    text = run_settings(advice, data=data, output=output, option=option)
    with atomic_files(file.parent) as scratch:
        (scratch / file.name).write_text(text, encoding="utf-8")


def _show(advice: Advice, top: int) -> None:
    from deltatune.planning.explain import assumptions

    screen = console()
    for line in assumptions(advice.plan):
        screen.print(line, style="dim", markup=False)
    can = [option for option in advice.options if option.excluded is None]
    screen.print(_table(can, is_asked=advice.plan.memory is not None))
    for option in can[:top]:
        screen.print(f"\n{option.label}", style="bold", markup=False)
        for reason in option.reasons or ("   no rule speaks for it, or against it",):
            screen.print(f"  {reason}", markup=False, soft_wrap=True)
    screen.print("\nnot here", style="bold")
    for option in advice.options:
        if option.excluded is not None:
            screen.print(f"  {option.label}: {option.excluded}", style="dim", markup=False, soft_wrap=True)


def _table(options: list[Option], *, is_asked: bool) -> Table:
    from rich.table import Table

    from deltatune.sizes import size_text

    table = Table()
    for name in ("method", "points", "trained", "peak", "file", *(["fits"] if is_asked else [])):
        table.add_column(name, justify="left" if name in ("method", "fits") else "right")
    for option in options:
        cost = None if option.row is None else option.row.cost
        figures = ["–"] * 3 if cost is None else [f"{cost.trainable:,}", size_text(cost.total), size_text(cost.file)]
        fits = {None: "–", True: "yes", False: "with changes"}[None if option.row is None else option.row.fits]
        table.add_row(option.label, f"{option.score:+d}", *figures, *([fits] if is_asked else []))
    return table


VERB = Verb(
    advise,
    (
        ("deltatune advise llama2-7b --examples 5000 --memory 24GiB", "one task, one GPU"),
        ("deltatune advise minilm --labels 6 --examples 300 --tasks 20", "many tasks on one base"),
        ("deltatune advise qwen2-7b --quant nf4 --merged --write run.yaml --data train.jsonl", "and settings to train"),
        ("deltatune advise llama3-8b --api", "weights out of reach"),
    ),
)
