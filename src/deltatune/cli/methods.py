"""`deltatune methods`: what each method can do on a base, found by trying."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.verb import AsJson, Verb, console, print_json

if TYPE_CHECKING:
    from torch import nn

DEEDS = ("train", "save", "peft", "route", "merge")


def methods(
    base: Annotated[
        str | None, typer.Argument(metavar="[BASE]", help="Try on this base. Default: a tiny LLaMA, made up at random.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show every method and what can be done with it on a base: each is attached with its defaults and tried.

    peft: Hugging Face PEFT reads its file. route: a row of a batch can take it or leave it. Attaching, detaching,
    switching off and stacking work for all.
    """
    from deltatune.methods import METHODS
    from deltatune.planning.traits import stand_in

    model = stand_in("causal-lm") if base is None else _open(base)
    rows = {key: _tried(model, key) for key in METHODS}
    if json:
        print_json({"base": base or "tiny random LLaMA", "methods": rows})
    else:
        _show(rows)


def _tried(model: nn.Module, key: str) -> dict[str, Any]:
    """What came of attaching one method and trying it; the model is as it was."""
    import deltatune as dt
    from deltatune.errors import DeltaError
    from deltatune.methods import from_config

    try:
        delta = dt.attach(model, from_config({"method": key}))
    except DeltaError as error:
        return {"attach": str(error)}
    try:
        size = dt.summary(model).deltas[0]
        found = {deed: reason or "yes" for deed, reason in dt.capabilities(delta).items()}
        return {"attach": "yes", "parameters": size.parameters, "share": size.share, **found}
    finally:
        dt.detach(model)


def _open(base: str) -> nn.Module:
    from deltatune.io.bases import load_base

    return load_base(base).model


def _show(rows: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("method", "parameters", "of base", *DEEDS)
    reasons = []
    for key, row in rows.items():
        if row["attach"] != "yes":
            table.add_row(key, "–", "–", *("–" for _ in DEEDS))
            reasons.append(f"{key}: {row['attach']}")
            continue
        marks = ["yes" if row[deed] == "yes" else "no" for deed in DEEDS]
        table.add_row(key, f"{row['parameters']:,}", f"{row['share']:.2%}", *marks)
        reasons += [f"{key}, {deed}: {row[deed]}" for deed in DEEDS if row[deed] != "yes"]
    screen = console()
    screen.print(table)
    for reason in reasons:
        screen.print(f"  {reason}", style="dim", markup=False)


VERB = Verb(
    methods,
    (
        ("deltatune methods", "every method, tried on a tiny model"),
        ("deltatune methods minilm", "on a base of yours"),
        ("deltatune methods --json", "with every reason in full"),
    ),
)
