"""Writes that happen whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["atomic_files", "remove_scratch", "write_json"]

SCRATCH = ".writing-"


@contextlib.contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files take their places in ``folder`` when the block ends well.

    Everything is written and flushed to the disk before the first file is renamed, so a reader, or a crash at any
    moment, finds each file old or new and never in part. They are as readable as any new file, though safetensors
    makes its own private.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder, prefix=SCRATCH))
    try:
        yield scratch
        written = sorted(scratch.iterdir())
        mode = _usual_mode(scratch)
        for file in written:
            file.chmod(mode)
            _flush(file)
        for file in written:
            os.replace(file, folder / file.name)
        _flush(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """Write plain data as JSON, whole or not at all."""
    with atomic_files(file.parent) as scratch:
        (scratch / file.name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def remove_scratch(folder: Path) -> None:
    """Remove what writes that were killed have left in ``folder`` and below. Nobody may be writing there."""
    for left in sorted(folder.rglob(f"{SCRATCH}*")):
        shutil.rmtree(left, ignore_errors=True)


def _usual_mode(folder: Path) -> int:
    """The permissions of a new file; the umask itself can not be read without changing it."""
    file = folder / ".mode"
    file.touch()
    mode = file.stat().st_mode
    file.unlink()
    return mode


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows can not open a folder; its renames are journalled
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes what can be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
