"""`deltatune merge`: deltas into the weights of their base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.models import Dtype, Task, check_free, save_model
from deltatune.cli.verb import AsJson, Verb, console, note, print_json
from deltatune.errors import ConfigError
from deltatune.train.opening import open_model

if TYPE_CHECKING:
    from deltatune.train.opening import Opened


def merge(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The base: a folder, a GGUF file, a hub id or an alias.")],
    deltas: Annotated[list[str], typer.Argument(metavar="DELTA", help="Deltas, or runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write the model to.")],
    weight: Annotated[
        list[float],
        typer.Option(
            "--weight", "-w", metavar="X", help="A share for each delta, in their order. Default: 1 for each."
        ),
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    task: Task = None,
    dtype: Dtype = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Merge deltas into their base and write the whole model, which then runs without deltatune.

    Every changed module is run before and after, and a difference that rounding does not explain is refused.
    """
    check_free(out, overwrite=overwrite)
    opened = open_model(base, deltas, dtype=dtype, task=task, device="cpu")
    if weight and len(weight) != len(opened.names):
        raise ConfigError(
            f"--weight: expected one for each of {len(opened.names)} deltas ({', '.join(opened.names)}), "
            f"found {len(weight)}; repeat --weight"
        )
    show(merge_and_save(opened, weight, out, overwrite=overwrite), json)


def merge_and_save(opened: Opened, weights: list[float], out: Path, *, overwrite: bool) -> dict[str, Any]:
    """Merge all the deltas of a model, write it, and tell what was done."""
    import warnings

    import deltatune as dt

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        done = dt.merge(opened.base.model, dict(zip(opened.names, weights or [1.0] * len(opened.names), strict=True)))
    for warning in said:
        if str(warning.message).startswith("merge:"):
            note(str(warning.message))
    return {
        **save_model(opened.base, out, overwrite=overwrite),
        "weights": done.weights,
        "modules": len(done.sites),
        "largest_difference": done.largest_difference,
    }


def show(result: dict[str, Any], json: bool) -> None:
    """Print what was written."""
    from deltatune.sizes import size_text

    if json:
        print_json(result)
        return
    weights = ", ".join(f"{weight:g} × {name}" for name, weight in result["weights"].items())
    console().print(
        f"merged {weights} into {result['modules']} modules: {result['folder']}, {size_text(result['bytes'])}; "
        f"merged and unmerged outputs differ by {result['largest_difference']:.1e} at most",
        soft_wrap=True,
    )


VERB = Verb(
    merge,
    (
        ("deltatune merge smollm2 out --out merged", "a finished run into its base"),
        ("deltatune merge smollm2 sql/final chat/final -w 0.7 -w 0.3 --out both", "two deltas, weighted"),
        ("deltatune merge smollm2 out --out merged --dtype bfloat16", "in another precision"),
    ),
)
