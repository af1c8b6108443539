"""`deltatune export`: a delta in the form that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.compose import as_data
from deltatune.cli.compose import show as show_composed
from deltatune.cli.merge import merge_and_save
from deltatune.cli.merge import show as show_merged
from deltatune.cli.models import check_free
from deltatune.cli.verb import AsJson, Verb, console, print_json
from deltatune.errors import ConfigError
from deltatune.train.opening import delta_folders, open_model

if TYPE_CHECKING:
    from deltatune.train.opening import Opened


def export(
    delta: Annotated[str, typer.Argument(metavar="DELTA", help="A delta's folder, or a run's.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The folder to write to.")],
    as_: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="NAME",
            help="peft: an adapter of Hugging Face PEFT. lora: a plain LoRA, whatever the method. model: the whole "
            "model, merged.",
        ),
    ] = "peft",
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", help="Of the LoRA; the error is told. Default: what it has, if it is exact so."),
    ] = None,
    rest: Annotated[
        str,
        typer.Option(metavar="NAME", help="Trained biases and whole modules, in a LoRA: keep, leave (out) or refuse."),
    ] = "keep",
    base: Annotated[str | None, typer.Option(metavar="BASE", help="The base, if the delta does not name it.")] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of what is written: float32, bfloat16 or float16.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Write a delta for programs that do not have deltatune: PEFT, vLLM and the like, or any that loads a model."""
    if as_ not in ("peft", "lora", "model"):
        raise ConfigError(f"--as: expected peft, lora or model, found {as_!r}; choose one of them")
    if rank is not None and as_ != "lora":
        raise ConfigError(f"--rank: expected --as lora with it, found --as {as_}; add it, or leave the rank out")
    if rest != "keep" and as_ != "lora":
        raise ConfigError(f"--rest: expected --as lora with it, found --as {as_}; add it, or leave --rest out")
    check_free(out, overwrite=overwrite)
    folders = delta_folders(Path(delta))
    if not folders:
        raise ConfigError(f"{delta}: expected a delta's folder or a run's, found none; check the path")
    named = (base, [delta]) if base else (delta, [])
    if as_ == "model":
        opened = open_model(*named, dtype=dtype, device="cpu")
        show_merged(merge_and_save(opened, [], out, overwrite=overwrite), json)
        return
    opened = open_model(*named, device="cpu")
    if as_ == "lora":
        _write_loras(opened, out, rank, rest, dtype, json)
        return
    written = _write_adapters(opened, out, dtype)
    if json:
        print_json({"folder": out, "adapters": written})
    else:
        console().print(f"wrote {', '.join(map(str, written))}, for peft.PeftModel.from_pretrained", soft_wrap=True)


def _write_loras(opened: Opened, out: Path, rank: int | None, rest: str, dtype: str | None, json: bool) -> None:
    """Write each delta as a plain LoRA: exactly, if it is a product of factors and no rank is given, else cut to it."""
    import dataclasses

    import deltatune as dt

    precision, model = _precision(dtype), opened.base.model
    made = []
    for name in opened.names:
        place = out if len(opened.names) == 1 else out / name
        how: Any = "svd" if rank else "cat"
        lora = dt.compose([name], how, model=model, name=f"{name}-lora", rank=rank, rest=rest)  # type: ignore[arg-type]  # compose checks it
        made.append((name, dataclasses.replace(lora, folder=place)))
    for name, each in made:
        assert each.delta is not None
        assert each.folder is not None
        each.delta.name = name  # of the file; the model is not used any more
        dt.save(each.delta, each.folder, dtype=precision)
    if json and len(made) > 1:
        print_json({"folder": out, "adapters": [as_data(each) for _, each in made]})
        return
    for _, each in made:
        show_composed(each, json)


def _precision(dtype: str | None) -> Any:
    import torch

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise ConfigError(f"--dtype: expected float32, bfloat16 or float16, found {dtype!r}; choose one of them")
    return None if dtype is None else getattr(torch, dtype)


def _write_adapters(opened: Opened, out: Path, dtype: str | None) -> list[Path]:
    import deltatune as dt

    precision = _precision(dtype)
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
        ("deltatune export out --out lora --as lora --rank 16", "any method as a LoRA, with the error of that rank"),
        ("deltatune export out --out model --as model", "the merged model"),
    ),
)
