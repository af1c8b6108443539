"""`deltatune export`: a delta in the form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.merge import merge_and_save
from deltatune.cli.merge import show as show_merged
from deltatune.cli.models import check_free, delta_folders, open_model
from deltatune.cli.verb import AsJson, Verb, console, print_json
from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from deltatune.cli.models import Opened


def export(
    delta: Annotated[str, typer.Argument(metavar="DELTA", help="A delta's folder, or a run's.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write to.")],
    as_: Annotated[
        str,
        typer.Option(
            "--as", metavar="NAME", help="peft: an adapter of Hugging Face PEFT. model: the whole model, merged."
        ),
    ] = "peft",
    base: Annotated[str | None, typer.Option(metavar="BASE", help="The base, if the delta does not name it.")] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of what is written: float32, bfloat16 or float16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Write a delta for programs that do not have deltatune: PEFT, vLLM and the like, or any that loads a model."""
    if as_ not in ("peft", "model"):
        raise ConfigError(f"--as: expected peft or model, found {as_!r}; choose one of them")
    check_free(out, overwrite=overwrite)
    folders = delta_folders(Path(delta))
    if not folders:
        raise ConfigError(f"{delta}: expected a delta's folder or a run's, found none; check the path")
    named = (base, [delta]) if base else (delta, [])
    if as_ == "model":
        opened = open_model(*named, dtype=dtype, device="cpu")
        show_merged(merge_and_save(opened, [], out, overwrite=overwrite), json)
        return
    written = _write_adapters(open_model(*named, device="cpu"), out, dtype)
    if json:
        print_json({"folder": out, "adapters": written})
    else:
        console().print(f"wrote {', '.join(map(str, written))}, for peft.PeftModel.from_pretrained", soft_wrap=True)


def _write_adapters(opened: Opened, out: Path, dtype: str | None) -> list[Path]:
    import torch

    import deltatune as dt

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype: expected float32, bfloat16 or float16, found {dtype!r}; choose one of them")
    precision: Any = None if dtype is None else getattr(torch, dtype)
    model = opened.base.model
    deltas = [dt.deltas(model)[name] for name in opened.names]
    for each in deltas:
        each.method.peft_config(model, each)  # refuses what PEFT has no form for, before anything is written
    places = [out] if len(deltas) == 1 else [out / each.name for each in deltas]
    for each, place in zip(deltas, places, strict=True):
        dt.save(each, place, dtype=precision)
    return places


VERB = Verb(
    export,
    (
        ("deltatune export out --out adapter", "for Hugging Face PEFT and the servers that read its adapters"),
        ("deltatune export out --out adapter --dtype bfloat16", "half the size"),
        ("deltatune export out --out model --as model", "the merged model"),
    ),
)
