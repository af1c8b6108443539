"""How verbs take a model, and how they write one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from deltatune.io.bases import Base

__all__ = ["Deltas", "Device", "Dtype", "Model", "Quant", "Task", "check_free", "save_model"]

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A run's folder, a delta's folder, or a base: a folder, GGUF, hub id, alias."),
]
Deltas = Annotated[
    list[str],
    typer.Option("--delta", "-d", metavar="DELTA", help="Put this delta on; repeat it to stack several."),
]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", metavar="NAME", help="Of the base's weights: float32, bfloat16, float16; auto: as stored."),
]
Quant = Annotated[
    str | None, typer.Option("--quant", metavar="NAME", help="Hold the base in fewer bits: nf4, nf4-double or int8.")
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="Such as cpu or cuda:1. Default: a GPU if there is one.")
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="causal-lm, seq2seq-lm or sequence-classification. Default: what the model is for.",
    ),
]


def save_model(base: Base, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a model and its tokenizer to a new folder, which appears whole or not at all.

    Raises:
        ConfigError: there is something already, and it is not to be overwritten.
    """
    import os
    import shutil
    import tempfile

    check_free(out, overwrite=overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".writing-") as scratch:
        whole = Path(scratch, "model")
        with _no_bars():
            base.model.save_pretrained(whole)
            base.tokenizer.save_pretrained(whole)
        if out.exists():
            shutil.rmtree(out)
        os.replace(whole, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    return {"folder": out, "bytes": size}


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of `transformers`."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_free(out: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that holds something, unless it is a model or a delta that may be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = out.is_dir() and any((out / name).is_file() for name in ("config.json", "adapter_config.json"))
    if overwrite and ours:
        return
    found = "a model or a delta" if ours else "a folder of other things" if out.is_dir() else "a file"
    hint = "name another, or add --overwrite" if ours else "name another"
    raise ConfigError(f"--out {out}: expected a new folder, found {found}; {hint}")
