"""What was measured, one line of JSON for each fit: written as soon as it is known, and not measured again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deltatune.errors import DataError
from deltatune.io.atomic import atomic_files

__all__ = ["Key", "Result", "ResultFile"]


class Key(NamedTuple):
    """What tells one fit from another."""

    data: str
    """The name of the data set."""
    model: str
    """The model, with its settings."""
    shots: int | None
    """Rows to learn from; `None` for all."""
    seed: int
    """Of the split, the draw and the model."""
    setting: str
    """A digest of the data, the question and the limit of test rows: with others a result is another one."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one fit.

    Args:
        data: the name of the data set.
        model: the model, with its settings.
        shots: rows that were asked for; `None` for all.
        seed: of the split, the draw and the model.
        setting: see `Key`.
        auc: on the test rows, macro one-vs-one for several classes; `None` if it failed.
        seconds: of fitting and of scoring the test rows.
        rows: that were learned from.
        test_rows: that were scored.
        failure: why it failed, in one line.
    """

    data: str
    model: str
    shots: int | None
    seed: int
    setting: str = ""
    auc: float | None = None
    seconds: float = 0.0
    rows: int = 0
    test_rows: int = 0
    failure: str | None = None

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return Key(self.data, self.model, self.shots, self.seed, self.setting)


class ResultFile:
    """Results in a file, to which lines are added.

    A line that a crash cut off is dropped. Of several results of the same fit the last one counts.

    Args:
        path: the file; it need not be there. `None`: nothing is kept.

    Raises:
        DataError: the file holds something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._found: dict[Key, Result] = {}
        if path is not None and path.exists():
            written = path.read_bytes()
            whole = written[: written.rfind(b"\n") + 1]
            self._found = {result.key: result for result in _results(whole, path)}
            if whole != written:
                with atomic_files(path.parent) as scratch:
                    (scratch / path.name).write_bytes(whole)

    def get(self, key: Key) -> Result | None:
        """The result of a fit that went well; one that failed is worth another try."""
        found = self._found.get(key)
        return found if found and found.failure is None else None

    def add(self, result: Result) -> None:
        """Keep a result; it is on the disk when this returns."""
        self._found[result.key] = result
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(result), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _results(written: bytes, path: Path) -> Iterator[Result]:
    for number, line in enumerate(written.split(b"\n")[:-1], 1):
        try:
            yield Result(**json.loads(line))
        except (ValueError, TypeError):
            found = str(line[:40])[1:]
            raise DataError(
                f"{path}:{number}: expected a result of deltatune tab eval, found {found}; name another folder"
            ) from None
