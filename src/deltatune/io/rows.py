"""Rows of numbers kept on disk from run to run, found again by the text that they are of.

A folder has two files for each process that added to it: the rows one after the other, and an index that says which of
them each text has. The index is written whole, after the rows that it speaks of have reached the disk, so a process
that is killed at any moment leaves fewer rows than it had, and never wrong ones: what no index speaks of is not there.
Each index carries a fingerprint of what the rows follow from. Rows of another one are never read, and are removed
when nobody else is using the folder.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deltatune.io.atomic import atomic_files, remove_scratch

try:
    import fcntl
except ImportError:  # Windows, where a file that is in use can not be removed anyway
    fcntl = None  # type: ignore[assignment]

__all__ = ["KEY", "RowStore", "TextRows"]

KEY = 16
"""How many bytes a text's digest has."""

WAIT = 60.0
"""Seconds from one writing of an index to the next: a killed process loses what it added in between."""

ROWS, INDEX, LOCK = ".rows", ".index", ".lock"

Rows = NDArray[np.uint8]
Numbers = NDArray[np.int64]


class TextRows(NamedTuple):
    """A text of a batch: its digest, and which rows of the batch its tokens are in, in order."""

    key: bytes
    rows: Numbers


class RowStore:
    """Rows of bytes by text, in a folder that several processes may use at a time.

    Args:
        folder: where they are; made if it is not there.
        fingerprint: what the rows follow from beside the texts. Rows with another one are as if they were not there.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.entries: dict[bytes, _Entry] = {}
        self.seen: dict[str, tuple[int, int]] = {}
        """The indexes of other processes that have been read, as they were then."""
        self.writers: dict[tuple[str, int], _Writer] = {}
        self.is_full = False
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = open(folder / LOCK, "ab")  # noqa: SIM115
        self._tidy()
        self._look()
        self.due = time.monotonic() + WAIT

    def __len__(self) -> int:
        return len(self.entries)

    def has(self, texts: Sequence[TextRows]) -> bool:
        """Whether the rows of all these texts are there, also from other processes."""
        if not self._has(texts):
            self._look()
        return self._has(texts)

    def read(self, texts: Sequence[TextRows], count: int) -> tuple[str, Rows]:
        """The rows of texts that are all there, in their places in a batch; zeros where no text has its tokens.

        Rows that several texts share are those of the first of them.

        Args:
            texts: the texts, with their places; one at least has rows.
            count: how many rows the batch has.

        Returns:
            What the numbers are, and the rows as bytes, ``[count, width]``.
        """
        first = next(self.entries[text.key].file for text in texts if len(text.rows))
        out, is_filled = np.zeros((count, first.width), np.uint8), np.zeros(count, np.bool_)
        for text in texts:
            entry, is_new = self.entries[text.key], ~is_filled[text.rows]
            if is_new.any():
                out[text.rows[is_new]] = entry.file.rows(entry.stop)[entry.rows[is_new]]
                is_filled[text.rows] = True
        return first.kind, out

    def add(self, kind: str, rows: Rows, texts: Sequence[TextRows]) -> None:
        """Keep the rows of those texts that are not there yet; what texts share is kept once.

        A full disk ends the keeping, with a warning, and nothing else.

        Args:
            kind: what the numbers are, such as ``float32``.
            rows: all rows of the batch as bytes, ``[count, width]``.
            texts: the texts, with their places.
        """
        new = {text.key: text.rows for text in texts if text.key not in self.entries}
        if not new or self.is_full:
            return
        try:
            self._add(kind, rows, new)
            if time.monotonic() >= self.due:
                self.commit()
        except OSError as error:
            self.is_full = True
            warnings.warn(f"{self.folder}: no more is cached from here on: {error}; make room", stacklevel=2)

    def _add(self, kind: str, rows: Rows, new: dict[bytes, Numbers]) -> None:
        taken = np.unique(np.concatenate(list(new.values())))
        writer = self._writer(kind, rows.shape[1])
        first = writer.append(rows[taken])
        for key, places in new.items():
            entry = _Entry(writer.file, _spans(first + np.searchsorted(taken, places)))
            writer.entries[key] = self.entries[key] = entry

    def _writer(self, kind: str, width: int) -> _Writer:
        if (kind, width) not in self.writers:
            self.writers[kind, width] = _Writer(_File(self.folder / f"{uuid4().hex}{ROWS}", kind, width))
        return self.writers[kind, width]

    def commit(self) -> None:
        """Write the indexes of what has been added, so that it outlives the process and others find it."""
        for writer in self.writers.values():
            if writer.indexed < len(writer.entries):
                writer.write_index(self.fingerprint)
        self.due = time.monotonic() + WAIT

    def close(self) -> None:
        """Commit, and let go of the folder."""
        try:
            if not self.is_full:
                self.commit()
        finally:
            for writer in self.writers.values():
                writer.stream.close()
            self.lock.close()
            self.entries.clear()

    def _has(self, texts: Sequence[TextRows]) -> bool:
        return all(text.key in self.entries for text in texts)

    def _look(self) -> None:
        """Take in the indexes that are new or have been written again."""
        own = {writer.file.path.with_suffix(INDEX).name for writer in self.writers.values()}
        for path in sorted(self.folder.glob(f"*{INDEX}")):
            with contextlib.suppress(FileNotFoundError):  # another process may be tidying up
                stat = path.stat()
                mark = (stat.st_mtime_ns, stat.st_size)
                if path.name not in own and self.seen.get(path.name) != mark:
                    self.seen[path.name] = mark
                    for key, entry in _read_index(path, self.fingerprint):
                        self.entries.setdefault(key, entry)

    def _tidy(self) -> None:
        """Remove what can not be used, unless another process is at work here."""
        if self._is_alone():
            remove_scratch(self.folder)
            used = {path.stem for path in self.folder.glob(f"*{INDEX}") if any(_read_index(path, self.fingerprint))}
            for path in (*self.folder.glob(f"*{INDEX}"), *self.folder.glob(f"*{ROWS}")):
                if path.stem not in used:
                    with contextlib.suppress(OSError):
                        path.unlink()
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self.lock, fcntl.LOCK_SH)

    def _is_alone(self) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or on a file system that knows no locks
            return False
        return True


class _File:
    """Rows on disk."""

    def __init__(self, path: Path, kind: str, width: int) -> None:
        self.path, self.kind, self.width = path, kind, width
        self.mapped: Any = np.empty((0, width), np.uint8)

    def rows(self, stop: int) -> Any:
        """All rows, ``stop`` of them at least; no more of them are in memory than are read."""
        if len(self.mapped) < stop:
            self.mapped = np.memmap(self.path, np.uint8, "r", shape=(self.count, self.width))
        return self.mapped

    @property
    def count(self) -> int:
        """How many whole rows there are."""
        return self.path.stat().st_size // self.width


class _Entry(NamedTuple):
    """Where the rows of a text are."""

    file: _File
    spans: tuple[int, ...]
    """The first row and the number of rows of each stretch, one stretch after the other."""

    @property
    def rows(self) -> Numbers:
        return np.concatenate([np.arange(at, at + n) for at, n in _pairs(self.spans)] or [np.empty(0, np.int64)])

    @property
    def stop(self) -> int:
        return max((at + n for at, n in _pairs(self.spans)), default=0)


class _Writer:
    """The rows that this process adds, and what it has to write into their index."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self.stream: IO[bytes] = open(file.path, "xb")  # noqa: SIM115
        self.entries: dict[bytes, _Entry] = {}
        self.count = self.indexed = 0

    def append(self, rows: Rows) -> int:
        """Write rows behind the others; the number of the first."""
        first = self.count
        self.stream.seek(first * self.file.width)  # a former write may have failed half way
        self.stream.write(np.ascontiguousarray(rows).data)
        self.stream.flush()
        self.count += len(rows)
        return first

    def write_index(self, fingerprint: str) -> None:
        os.fsync(self.stream.fileno())
        spans = [entry.spans for entry in self.entries.values()]
        tensors: dict[str, NDArray[Any]] = {
            "keys": np.frombuffer(b"".join(self.entries), np.uint8).reshape(-1, KEY),
            "lengths": np.array([len(each) for each in spans], np.int64),
            "spans": np.array([number for each in spans for number in each], np.int64),
        }
        about = {"fingerprint": fingerprint, "kind": self.file.kind, "width": str(self.file.width)}
        with atomic_files(self.file.path.parent) as scratch:
            save_file(tensors, scratch / self.file.path.with_suffix(INDEX).name, about)
        self.indexed = len(self.entries)


def _read_index(path: Path, fingerprint: str) -> Iterator[tuple[bytes, _Entry]]:
    """The texts of an index and where their rows are; none if it is another's, or does not fit its rows."""
    try:
        with safe_open(path, framework="np") as index:
            about = index.metadata() or {}
            if about.get("fingerprint") != fingerprint:
                return
            keys, lengths, spans = (index.get_tensor(name) for name in ("keys", "lengths", "spans"))
        file = _File(path.with_suffix(ROWS), about["kind"], int(about["width"]))
        stops = spans[0::2] + spans[1::2]
        fits = len(keys) == len(lengths) and lengths.sum() == len(spans) and keys.shape[1] == KEY
        if not fits or (len(spans) and not (spans.min() >= 0 and stops.max() <= file.count)):
            return
    except (SafetensorError, OSError, KeyError, ValueError, IndexError):
        return
    for key, its_spans in zip(keys, np.split(spans, lengths.cumsum()[:-1]), strict=True):
        yield key.tobytes(), _Entry(file, tuple(its_spans.tolist()))


def _spans(rows: Numbers) -> tuple[int, ...]:
    """Rows as stretches of consecutive ones; see :attr:`_Entry.spans`."""
    stretches = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else []
    return tuple(int(number) for stretch in stretches for number in (stretch[0], len(stretch)))


def _pairs(spans: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    return zip(spans[0::2], spans[1::2], strict=True)
