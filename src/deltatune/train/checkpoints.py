"""The checkpoints of a training run: which are whole, and where the deltas lie in them.

A checkpoint holds the deltas, never the base. One delta lies in the checkpoint's own folder, as Hugging Face PEFT has
it; several lie in folders of their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deltatune.attachment.bank import bare
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import deltas
from deltatune.errors import DeltaError, FileFormatError, first_line
from deltatune.io.atomic import atomic_files
from deltatune.io.files import describe, restore, save

__all__ = [
    "begin_checkpoint",
    "delta_folders",
    "last_whole_checkpoint",
    "restore_deltas",
    "save_deltas",
    "save_states",
]

# A run writes these in this order; the last one is JSON, which can not be read in part.
FILES = ("optimizer.pt", "scheduler.pt", "trainer_state.json")

STATE = "delta_state.safetensors"
"""A delta as it is in training, buffers included; the delta's own file has it as it is to be used."""


def begin_checkpoint(folder: Path) -> None:
    """Let a checkpoint that is there, of an earlier run, not count as whole while its files are replaced."""
    (folder / FILES[-1]).unlink(missing_ok=True)


def save_deltas(model: nn.Module, folder: Path, card: Mapping[str, object] | None = None) -> None:
    """Write every delta of ``model`` below ``folder``."""
    for name, place in delta_folders(model, folder).items():
        save(deltas(model)[name], place, card=card)


def save_states(model: nn.Module, folder: Path) -> None:
    """Write what training goes on from: every tensor of every delta, as it is."""
    for name, place in delta_folders(model, folder).items():
        with atomic_files(place) as scratch:
            save_file(_distinct(deltas(model)[name]), scratch / STATE)


def restore_deltas(model: nn.Module, folder: Path) -> None:
    """Put the tensors of a checkpoint into the deltas of ``model``: the state of training if it is there.

    Raises:
        FileFormatError: the checkpoint lacks a delta, or holds one of another shape.
    """
    for name, place in delta_folders(model, folder).items():
        state = place / STATE
        if state.exists():
            with bare(model):
                _load_state(deltas(model)[name], state)
        else:
            restore(deltas(model)[name], place)


def _distinct(delta: Delta) -> dict[str, Tensor]:
    """The state of a delta; a tensor that several of its parts share is there once."""
    seen: set[tuple[int, torch.Size]] = set()
    state: dict[str, Tensor] = {}
    for name, tensor in delta.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen or not tensor.numel():
            seen.add(place)
            state[name] = tensor
    return state


def _load_state(delta: Delta, file: Path) -> None:
    try:
        tensors = load_file(file)
        if tensors.keys() != _distinct(delta).keys():
            raise RuntimeError("it holds other tensors")
        delta.load_state_dict(tensors, strict=False)
    except (RuntimeError, SafetensorError) as error:
        reason = first_line(error)
        raise FileFormatError(
            f"{file}: does not fit delta {delta.name!r} ({reason}); resume with its settings"
        ) from None


def delta_folders(model: nn.Module, folder: Path) -> dict[str, Path]:
    """Where each delta of ``model`` lies below ``folder``."""
    names = list(deltas(model))
    return {names[0]: folder} if len(names) == 1 else {name: folder / name for name in names}


def last_whole_checkpoint(model: nn.Module, run: Path) -> Path | None:
    """The latest checkpoint of a run that was written to its end; a run that was killed may leave one that was not."""
    numbered = [(int(found[1]), path) for path in run.glob("checkpoint-*") if (found := _NAME.fullmatch(path.name))]
    return next((path for _, path in sorted(numbered, reverse=True) if _is_whole(model, path)), None)


_NAME = re.compile(r"checkpoint-(\d+)")


def _is_whole(model: nn.Module, checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / FILES[-1]).read_text())
        for place in delta_folders(model, checkpoint).values():
            describe(place)
    except (OSError, ValueError, DeltaError):
        return False
    return all((checkpoint / file).exists() for file in FILES)
