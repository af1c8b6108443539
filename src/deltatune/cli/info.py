"""`deltatune info`: what a folder or a base is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deltatune.cli.verb import AsJson, Verb, console, print_json

SYSTEM = "sql.yaml"
"""What the folder of a Text-to-SQL system holds. Reading more of it takes that application's extra."""


def info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="The folder of a delta, a run or a system, or a base.")],
    json: AsJson = False,
) -> None:
    """Tell what a folder is: a delta, a run, a Text-to-SQL system or a base, with what matters of it.

    No weights are read.
    """
    found = _about(path)
    if json:
        print_json(found)
    else:
        _show(found)


def _about(path: str) -> dict[str, Any]:
    from deltatune.io.files import TENSORS
    from deltatune.train.folder import RunFolder

    folder = Path(path)
    if (folder / TENSORS).is_file():
        return _delta(folder)
    if RunFolder(folder).is_run:
        return _run(RunFolder(folder))
    if (folder / SYSTEM).is_file():
        return _system(folder)
    return _base(path)


def _delta(folder: Path) -> dict[str, Any]:
    import dataclasses
    import math

    from deltatune.io.files import describe

    about = describe(folder)
    shapes = about.shapes()
    base = about.base or {}
    return {
        "kind": "delta",
        "path": folder,
        "name": about.name,
        "method": about.method.key,
        "settings": dataclasses.asdict(about.method),
        "base": base.get("name_or_path") or about.raw.get("base_model"),
        "architecture": base.get("architecture"),
        "parameters": sum(math.prod(shape) for shape in shapes.values()),
        "bytes": about.file.stat().st_size,
        "made_with": f"deltatune {about.raw['version']}" if about.base else "Hugging Face PEFT",
        "tensors": {name: list(shape) for name, shape in shapes.items()},
    }


def _run(run: Any) -> dict[str, Any]:
    from deltatune.train.config_file import load_config
    from deltatune.train.opening import delta_folders

    config = load_config(run.config)
    log, metrics = run.read_log(), run.read_metrics()
    return {
        "kind": "run",
        "path": run.path,
        "state": "finished" if run.is_finished else "unfinished",
        "base": config.base.model,
        "methods": {spec.name: spec.method for spec in config.attached},
        "data": config.data.train,
        "steps": log[-1]["step"] if log else 0,
        "checkpoints": [checkpoint.name for checkpoint in run.checkpoints()],
        "deltas": delta_folders(run.path) if run.is_finished else [],
        "metrics": metrics or _last(log),
    }


def _system(path: Path) -> dict[str, Any]:
    from deltatune.apps.sql.folder import SystemFolder
    from deltatune.train.folder import RunFolder

    system = SystemFolder(path)
    config, writer = system.read_config(), RunFolder(system.writer)
    log = writer.read_log()
    return {
        "kind": "Text-to-SQL system",
        "path": path,
        "state": "finished" if writer.is_finished else "unfinished",
        "base": config.base.model,
        "method": config.delta.method,
        "databases": config.databases,
        "questions": sum(1 for _ in system.data.open()) if system.data.is_file() else None,
        "linker": "trained" if system.linker.is_dir() else "by words",
        "steps": log[-1]["step"] if log else 0,
        "metrics": writer.read_metrics() or _last(log),
    }


def _last(log: list[dict[str, Any]]) -> dict[str, Any]:
    """The last loss of each kind of a run that is not over."""
    return {key: entry[key] for entry in log for key in ("loss", "eval_loss") if key in entry}


def _base(path: str) -> dict[str, Any]:
    import deltatune as dt

    base = dt.load_base(path, device="meta")
    config = base.model.config
    counted = dt.summary(base.model)
    return {
        "kind": "base",
        "path": path,
        "architecture": counted.architecture,
        "task": base.task,
        "parameters": counted.base_parameters,
        "dtype": str(base.model.dtype).removeprefix("torch."),
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
        "vocabulary": len(base.tokenizer),
        "positions": getattr(config, "max_position_embeddings", None),
        "chat_template": bool(base.tokenizer.chat_template),
    }


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from deltatune.sizes import size_text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in found.items():
        if name == "tensors":
            value = _tensor_lines(value)
        elif name == "bytes":
            name, value = "size", size_text(value)
        elif isinstance(value, dict):
            value = ", ".join(f"{key} {_text(inner)}" for key, inner in value.items() if inner not in (None, (), {}))
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        table.add_row(name.replace("_", " "), Text(_text(value)))
    console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else "unknown" if value is None else str(value)


def _tensor_lines(tensors: dict[str, list[int]]) -> str:
    """Each kind of tensor once: layers differ in their numbers only."""
    import re
    from collections import Counter

    from deltatune.io.peft_layout import PREFIX

    names = {name: re.sub(r"\.\d+\.", ".*.", name.removeprefix(PREFIX)) for name in tensors}
    kinds = Counter((names[name], tuple(shape)) for name, shape in tensors.items())
    return "\n".join(f"{count} × {name} {list(shape)}" for (name, shape), count in kinds.items())


VERB = Verb(
    info,
    (
        ("deltatune info out", "a run: its state, its losses, its checkpoints"),
        ("deltatune info out/final --json", "a delta: method, base, tensors"),
        ("deltatune info runs/sql", "a Text-to-SQL system: what it learned from, and how far it is"),
        ("deltatune info smollm2", "a base"),
    ),
)
