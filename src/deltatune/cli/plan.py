"""`deltatune plan`: what training takes, before a weight is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.models import Dtype, Quant
from deltatune.cli.verb import AsJson, Verb, console, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from deltatune.planning.cost import Cost
    from deltatune.planning.plan import Plan, Row


def plan(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE", help="A well-known base such as llama2-7b, a folder with a config.json, a GGUF or a hub id."
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Such as full,lora,lora:r=64,targets=all_linear. Default: all."),
    ] = None,
    seq_len: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a text.")] = 512,
    batch_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a batch, on each device.")] = 2048,
    shared: Annotated[int, typer.Option(metavar="N", min=0, help="Tokens that all texts begin with alike.")] = 0,
    accumulation: Annotated[int, typer.Option(metavar="N", min=1, help="Batches a step.")] = 1,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="What runs it: cuda, mps or cpu.")] = "cuda",
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="As in a run's settings.")] = "adamw_torch_fused",
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What a device has, such as 24GiB: tell what fits.")
    ] = None,
    reserve: Annotated[
        str, typer.Option(metavar="SIZE", help="Of that, what to leave to drivers, kernels and the allocator.")
    ] = "1GB",
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Run layers again in backward in place of keeping their tensors.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Padded rows and the model's own loss, as other trainers train.")
    ] = False,
    task: Annotated[
        str, typer.Option(metavar="NAME", help="What the base is trained for. auto: what it is for.")
    ] = "auto",
    labels: Annotated[int | None, typer.Option(metavar="N", min=2, help="Classes of a classifier.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Tell how each figure comes about.")] = False,
    json: AsJson = False,
) -> None:
    """Show what training takes with each method: memory, file, operations; and what to change where it does not fit.

    No weight is loaded. A training step is run on tensors without data, and what it makes and keeps is counted.
    """
    from deltatune.methods.written import FULL, read_methods
    from deltatune.planning.plan import plan as make_plan

    chosen = None
    if methods is not None:
        written = read_methods(methods, words=(FULL,))
        chosen = [FULL if each.key == FULL else {"method": each.key, **each.settings} for each in written]
    found = make_plan(
        base,
        methods=chosen,
        task=task,
        num_labels=labels,
        seq_len=seq_len,
        batch_tokens=batch_tokens,
        shared=shared,
        accumulation=accumulation,
        dtype=dtype or "auto",  # type: ignore[arg-type]  # checked below
        quant=quant,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        optimizer=optimizer,
        checkpointing=checkpointing,
        savings=not plain,
        device_memory=memory,
        reserve=reserve,
    )
    if json:
        print_json(found.to_dict())
    else:
        _show(found, explain=explain)


def _show(plan: Plan, *, explain: bool) -> None:
    from deltatune.planning.explain import assumptions, explained

    screen = console()
    for line in assumptions(plan):
        screen.print(line, style="dim", markup=False)
    screen.print(_table(plan, is_wide=screen.width >= WIDE))
    for row in plan.rows:
        for line in _remarks(row):
            screen.print(line, markup=False, soft_wrap=True)
    for row in plan.rows:
        if explain and row.cost is not None:
            screen.print(f"\n{row.label}", style="bold", markup=False)
            for line in explained(plan, row.cost):
                screen.print(f"  {line}", markup=False, soft_wrap=True)


WIDE = 132
"""Columns of a terminal on which all figures have room."""


def _table(plan: Plan, *, is_wide: bool) -> Table:
    from rich.table import Table

    figures = {name: figure for name, figure in FIGURES.items() if is_wide or name in NARROW}
    table = Table()
    table.add_column("method", overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    if plan.memory is not None:
        table.add_column("fits")
    for row in plan.rows:
        if row.cost is not None:
            fits = [] if row.fits is None else ["yes" if row.fits else "no"]
            table.add_row(row.label, *(figure(row.cost) for figure in figures.values()), *fits)
    return table


def _size(name: str) -> Callable[[Cost], str]:
    def text(cost: Cost) -> str:
        from deltatune.sizes import size_text

        return size_text(getattr(cost, name))

    return text


FIGURES: dict[str, Callable[[Cost], str]] = {
    "trained": lambda cost: f"{cost.trainable:,}",
    "of base": lambda cost: f"{cost.share:.3%}",
    **{name: _size(name) for name in ("weights", "gradients", "optimizer", "activations", "temporary")},
    "peak": _size("total"),
    "file": _size("file"),
    "Tflop": lambda cost: f"{cost.operations / 1e12:,.2f}",
}
"""The columns, and how they are read off a cost."""
NARROW = ("trained", "of base", "peak", "file", "Tflop")
"""What a narrow terminal has room for."""


def _remarks(row: Row) -> list[str]:
    """Why a method is not in the table, or what to change so that it fits."""
    from deltatune.sizes import size_text

    if row.error is not None:
        return [f"{row.label}: {row.error}"]
    if row.fits is not False:
        return []
    if not row.changes:
        return [
            f"{row.label}: does not fit, whatever is changed here; take a method that trains less, or a smaller base"
        ]
    made: list[Any] = [f"{change.text} ({change.price}): {size_text(change.total)}" for change in row.changes]
    return [f"{row.label}: to fit, {'; and '.join(made)}"]


VERB = Verb(
    plan,
    (
        ("deltatune plan llama2-7b --memory 24GiB", "every method on a 7B base, and what fits"),
        ("deltatune plan qwen2-7b --quant nf4 --methods lora,lora:r=64,targets=all_linear", "some, in 4 bits"),
        ("deltatune plan ./model --seq-len 2048 --batch-tokens 8192 --checkpointing", "a model of yours"),
        ("deltatune plan smollm2 --methods lora --explain", "how each figure comes about"),
    ),
)
