"""`deltatune compose`: several deltas as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from deltatune.cli.models import check_free
from deltatune.cli.verb import AsJson, Verb, console, print_json
from deltatune.errors import ConfigError
from deltatune.train.opening import delta_folders, open_model


def compose(
    deltas: Annotated[list[str], typer.Argument(metavar="DELTA", help="LoRAs: their folders, or those of runs.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write to.")],
    how: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="cat: the exact sum. svd: the same, cut to a rank. linear, factors: sums of the factors. ties, dare, "
            "dare_ties, magnitude: of chosen entries of the factors; with _svd, of the changes they make. lorahub: "
            "sums of factors whose weights are found on --examples.",
        ),
    ] = "cat",
    weight: Annotated[
        list[float],
        typer.Option(
            "--weight",
            "-w",
            metavar="X",
            help="A weight for each, in their order; may be negative. Default: 1 for each.",
        ),
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    rank: Annotated[
        int | None, typer.Option(metavar="R", help="Of the result, for svd and _svd. Default: the largest of theirs.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the entries to keep, for ties, dare and magnitude.")
    ] = None,
    sign: Annotated[str, typer.Option(metavar="NAME", help="How ties elects signs: total or frequency.")] = "total",
    seed: Annotated[int, typer.Option(metavar="N", help="Of what dare drops.")] = 0,
    rest: Annotated[
        str, typer.Option(metavar="NAME", help="Trained biases and whole modules: keep, leave (out) or refuse.")
    ] = "keep",
    examples: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For lorahub: a few records of the new task.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="BASE", help="For lorahub. Default: what the first names.")
    ] = None,
    evaluations: Annotated[int, typer.Option(metavar="N", min=1, help="For lorahub: how many weights to try.")] = 40,
    name: Annotated[str, typer.Option(metavar="NAME", help="How to call the result.")] = "composed",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a delta that is in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Make one LoRA of several, of any ranks, alphas and targets. Their base is not loaded, but for lorahub.

    Negative weights take a delta away: that of what is to be unlearned, or a in the analogy c + b - a.
    """
    check_free(out, overwrite=overwrite)
    folders = [folder for delta in deltas for folder in delta_folders(Path(delta)) or [Path(delta)]]
    if weight and len(weight) != len(folders):
        raise ConfigError(
            f"--weight: expected one for each of {len(folders)} deltas, found {len(weight)}; repeat --weight"
        )
    if len(set(folders)) < len(folders):
        raise ConfigError(f"compose: expected each delta once, found {folders[0]} among others twice; add its weights")
    if (how == "lorahub") != (examples is not None):
        raise ConfigError("--examples: expected it with --how lorahub, and only there; add the other, or leave it out")
    _refuse_unread(how, {"--weight": weight, "--rank": rank, "--density": density}, {"--base": base})
    if examples is not None:
        _lorahub(folders, out, examples, base, evaluations, seed, name, json=json)
        return
    import deltatune as dt

    made = dt.compose(
        dict(zip(map(str, folders), weight or [1.0] * len(folders), strict=True)),
        how,  # type: ignore[arg-type]  # compose checks these
        out=out,
        name=name,
        rank=rank,
        density=density,
        sign=sign,  # type: ignore[arg-type]
        seed=seed,
        rest=rest,  # type: ignore[arg-type]
    )
    show(made, json)


def _refuse_unread(how: str, of_rules: Mapping[str, object], of_lorahub: Mapping[str, object]) -> None:
    """Refuse options that this way of composing would not read."""
    unread = of_rules if how == "lorahub" else of_lorahub
    found = next((name for name, value in unread.items() if value not in (None, [])), None)
    if found is not None:
        raise ConfigError(f"{found}: expected it with another way of composing, found --how {how}; leave it out")


def _lorahub(
    folders: list[Path],
    out: Path,
    examples: Path,
    base: str | None,
    evaluations: int,
    seed: int,
    name: str,
    *,
    json: bool,
) -> None:
    """Find the weights on examples, which takes the base."""
    import deltatune as dt
    from deltatune.train.collate import Collator
    from deltatune.train.complete import chunks
    from deltatune.train.config import DataSpec
    from deltatune.train.labels import LabelSet
    from deltatune.train.records import read_records
    from deltatune.train.setup import encode

    first, *others = map(str, folders)
    opened = open_model(base, [first, *others]) if base else open_model(first, others)
    data = DataSpec(train=str(examples)) if opened.config is None else opened.config.data
    labels = LabelSet(data.labels) if data.labels else None
    records = read_records(examples, format=data.format, columns=data.columns)
    encoded = encode(records, opened.base, data, labels).examples
    collate = Collator.of(opened.base.tokenizer)
    batches = [collate([encoded[i] for i in batch]) for batch in chunks(range(len(encoded)), BATCH)]
    found = dt.lorahub(opened.base.model, opened.names, batches, name=name, evaluations=evaluations, seed=seed)
    dt.save(found.delta, out)
    weights = dict(zip(map(str, folders), found.weights.values(), strict=True))
    if json:
        print_json({"folder": out, "how": "lorahub", "weights": weights, "loss": found.loss})
        return
    shown = ", ".join(f"{weight:.3g} × {folder}" for folder, weight in weights.items())
    console().print(f"lorahub of {shown}: {out}", soft_wrap=True)
    console().print(f"loss {found.loss:.4f} on {len(encoded)} examples, the best of {len(found.history)} weights tried")


BATCH = 8
"""Examples that are evaluated together."""


def as_data(made: Any) -> dict[str, Any]:
    """What was composed, as plain data."""
    return {
        "folder": made.folder,
        "how": made.how,
        "weights": made.weights,
        "rank": made.rank,
        "sites": len(made.losses),
        "error": made.error,
        "energy_kept": made.kept,
        "errors": {site: loss.error for site, loss in made.losses.items()},
    }


def show(made: Any, json: bool) -> None:
    """Print what was composed."""
    from deltatune.composition.ways import WAYS

    if json:
        print_json(as_data(made))
        return
    site, worst = max(made.losses.items(), key=lambda item: item[1].error)
    if made.how == "cat":
        said = "the exact sum"
    elif WAYS[made.how].on == "effects":
        said = f"{made.error:.2%} lost by the rank, at most {worst.error:.2%} ({site}); energy kept {made.kept:.2%}"
    else:
        said = f"{made.error:.2%} off the weighted sum of what they do, at most {worst.error:.2%} ({site})"
    weights = ", ".join(f"{weight:g} × {folder}" for folder, weight in made.weights.items())
    console().print(f"{made.how} of {weights}: {made.folder}, rank {made.rank}", soft_wrap=True)
    console().print(f"{len(made.losses)} sites; {said}", soft_wrap=True)


VERB = Verb(
    compose,
    (
        ("deltatune compose sql/final chat/final --out both", "the exact sum of two LoRAs"),
        ("deltatune compose sql chat -w 0.7 -w 0.3 --how svd --rank 8 --out both", "weighted, at rank 8"),
        ("deltatune compose sql chat --how lorahub --examples few.jsonl --out new", "weights found on a few examples"),
        ("deltatune compose sql chat --how ties_svd --density 0.2 --out both", "TIES on what they change"),
    ),
)
