"""From what a user names to a model with its deltas on: a base, a delta, or the folder of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from deltatune.io.bases import Base
    from deltatune.train.config import RunConfig

__all__ = ["Opened", "best_device", "classes_of", "delta_folders", "open_model", "settings_of"]


@dataclass(frozen=True)
class Opened:
    """A model that is ready, and how it came about."""

    base: Base
    names: tuple[str, ...]
    """The deltas on it."""
    config: RunConfig | None
    """The settings of the run that trained the first of them, if they are known."""


def open_model(
    model: str,
    deltas: Sequence[str] = (),
    *,
    dtype: str | None = None,
    quant: str | None = None,
    device: str | None = None,
    task: str | None = None,
    labels: Sequence[str] | None = None,
) -> Opened:
    """Load a base and put deltas on it.

    Args:
        model: a base, or the folder of a delta or of a run; of the latter two, the base is known.
        deltas: further deltas, or runs.
        dtype: of the base's weights. Default: as it was trained on, else as they are stored.
        quant: as for `load_base`. Default: not quantised.
        device: where to. Default: the GPU if there is one.
        task: what the base is for. Default: as it was trained for, else what it was made for.
        labels: the classes, where the run's settings do not tell.

    Raises:
        DeltaError: there is no such base or delta, or they do not fit.
    """
    import deltatune as dt

    own = delta_folders(Path(model))
    folders = own + [folder for delta in deltas for folder in _named(delta)]
    config = next(filter(None, map(settings_of, folders)), None)
    known = config.base if config else None
    classes = config.data.labels if config and config.data.labels else labels
    task = task or _task(folders, config)
    base = dt.load_base(
        _base_of(own[0], config) if own else model,
        task=task,
        dtype=dtype or (known.dtype if known else "auto"),  # type: ignore[arg-type]  # load_base checks it
        quant=quant,  # type: ignore[arg-type]
        device=device or best_device(),
        id2label=dict(enumerate(classes)) if classes and task == "sequence-classification" else None,
        revision=known.revision if known and own else None,
        trust_remote_code=known.trust_remote_code if known and own else False,
    )
    _take_template(base, folders)
    names: list[str] = []
    for folder in folders:
        names.append(_free_name(folder, names))
        dt.load(base.model, folder, name=names[-1])
    return Opened(base, tuple(names), config)


def classes_of(model: str, config: RunConfig | None) -> tuple[str, ...] | None:
    """The classes that a model tells apart, by their ids; ``None`` if nobody has named them.

    Args:
        model: a base, or the folder of a delta or a run.
        config: the settings of the run that trained it, if they are known.

    Raises:
        DeltaError: there is no such base.
    """
    from deltatune.io.bases import TASKS, read_config

    if config is not None and config.data.labels:
        return config.data.labels
    if delta_folders(Path(model)):
        return None
    found = read_config(model)
    if not any(name.endswith(TASKS["sequence-classification"].endings) for name in found.architectures or ()):
        return None
    by_id: dict[Any, str] = found.id2label or {}
    names = tuple(by_id[number] for number in sorted(by_id, key=int))
    return None if names == tuple(f"LABEL_{number}" for number in range(len(names))) else names


def _take_template(base: Base, folders: Sequence[Path]) -> None:
    """Use the chat template that a delta was trained with, which lies with it."""
    places = [place / "chat_template.jinja" for folder in folders for place in (folder, folder.parent)]
    found = next((file for file in places if file.is_file()), None)
    if found is not None:
        base.tokenizer.chat_template = found.read_text(encoding="utf-8")


def delta_folders(path: Path) -> list[Path]:
    """The deltas that a delta's folder, a run's folder or its `final/` holds, in the order in which they act; or none.

    Raises:
        ConfigError: it is a run without results yet.
    """
    from deltatune.io.files import TENSORS
    from deltatune.train.folder import RunFolder

    if not path.is_dir():
        return []
    if (path / TENSORS).is_file():
        return [path]
    run = RunFolder(path)
    if run.has_result:
        return delta_folders(run.final)
    if run.is_run:
        found = ", ".join(checkpoint.name for checkpoint in run.checkpoints()) or "none"
        raise ConfigError(
            f"{path}: expected a finished run, found one with the checkpoints: {found}; name one of these"
        )
    config = settings_of(path)
    inside = [path / spec.name for spec in config.attached] if config else []
    return [folder for folder in inside if (folder / TENSORS).is_file()]


def settings_of(folder: Path) -> RunConfig | None:
    """The settings of the run that wrote this folder, which lie in it or beside it; `None` if they are not known."""
    from deltatune.train.config_file import load_config

    for place in (folder, folder.parent):
        file = place / "config.yaml"
        if file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith("# deltatune "):
            return load_config(file)
    return None


def _named(delta: str) -> list[Path]:
    """The folders that a delta's name stands for; of a name that is no folder, the hub may know."""
    return delta_folders(Path(delta)) or [Path(delta)]


def _base_of(folder: Path, config: RunConfig | None) -> str:
    from deltatune.io.files import describe

    if config is not None:
        return config.base.model
    about = describe(folder)
    base = about.raw.get("base_model") or (about.base or {}).get("name_or_path")
    if not base:
        raise ConfigError(f"{folder}: expected the name of its base in it, found none; name the base too")
    return str(base)


def _task(folders: Sequence[Path], config: RunConfig | None) -> str:
    """The task that the deltas were trained for."""
    from deltatune.io.bases import TASKS
    from deltatune.io.files import describe

    if config is not None and config.base.task != "auto":
        return config.base.task
    if config is not None and config.data.labels:
        return "sequence-classification"
    architecture = str((describe(folders[0]).base or {}).get("architecture", "")) if folders else ""
    task = "sequence-classification"
    return task if architecture.endswith(TASKS[task].endings) else "auto"


def _free_name(folder: Path, taken: Sequence[str]) -> str:
    from deltatune.io.files import describe

    name = describe(folder).name
    return next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)


def best_device() -> str | None:
    """The GPU if there is one; ``None`` for the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else None
