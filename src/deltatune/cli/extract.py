"""`deltatune extract`: the difference of two checkpoints as a LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.compose import show
from deltatune.cli.models import Task, check_free
from deltatune.cli.verb import AsJson, Verb
from deltatune.errors import ConfigError


def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The checkpoint that the LoRA is for.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The one that was tuned from it.")],
    rank: Annotated[int, typer.Option("--rank", "-r", metavar="R", help="Of the LoRA.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write to.")],
    targets: Annotated[
        str, typer.Option(metavar="NAMES", help="Whose differences become low-rank, with commas between.")
    ] = "all_linear",
    rest: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="If norms, biases, embeddings or the head differ: refuse, keep or leave (out)."
        ),
    ] = "refuse",
    name: Annotated[str, typer.Option(metavar="NAME", help="How to call the result.")] = "extracted",
    task: Task = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of what is written: float32, bfloat16 or float16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a delta that is in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Turn the difference of two checkpoints into a LoRA of a given rank, and tell what that loses.

    The models are not loaded: their files are read a tensor at a time.
    """
    check_free(out, overwrite=overwrite)
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype: expected float32, bfloat16 or float16, found {dtype!r}; choose one of them")
    import torch

    import deltatune as dt

    made = dt.extract(
        base,
        tuned,
        out,
        rank=rank,
        targets=[target.strip() for target in targets.split(",")],
        rest=rest,  # type: ignore[arg-type]  # extract checks it
        name=name,
        task=task or "auto",
        dtype=None if dtype is None else getattr(torch, dtype),
    )
    show(made, json)


VERB = Verb(
    extract,
    (
        ("deltatune extract base tuned --rank 32 --out difference", "a full fine-tuning as a LoRA"),
        ("deltatune extract base tuned --rank 32 --rest keep --out difference", "with its norms and embeddings whole"),
    ),
)
