"""The folder of a run: where each thing lies, whether the run is over, and who may write into it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltatune.errors import ConfigError
from deltatune.io.atomic import atomic_files, remove_scratch

__all__ = ["RunFolder"]

_OURS = re.compile(r"config\.yaml|log\.jsonl|metrics\.json|loss\.png|final|checkpoint-\d+")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. `metrics.json` is written last, so it tells that the run is over."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, defaults filled in."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """What was logged, one JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def metrics(self) -> Path:
        """The results."""
        return self.path / "metrics.json"

    @property
    def plot(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

    @property
    def final(self) -> Path:
        """The trained deltas, the tokenizer and the settings."""
        return self.path / "final"

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here."""
        return self.config.is_file() and (self.log.is_file() or self.final.is_dir())

    @property
    def is_finished(self) -> bool:
        """Whether a run came to its end here."""
        return self.metrics.is_file() and self.final.is_dir()

    @property
    def has_result(self) -> bool:
        """Whether the result that is here is that of the run; one that goes on has that of a shorter one."""
        return self.final.is_dir() and (self.is_finished or not self.log.is_file())

    def checkpoints(self) -> list[Path]:
        """The folders of checkpoints, whole or not, in the order of their steps."""
        found = [path for path in self.path.glob("checkpoint-*") if _OURS.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.partition("-")[2]))

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """See that a run may begin here. Nothing changes yet: the run may still be refused for another reason.

        Args:
            resume: whether to go on with the run that is there, if any.
            overwrite: whether the run that is there is to be deleted.

        Raises:
            ConfigError: a run is there and neither was asked for, or both were.
        """
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite: expected one of them, found both; leave one out")
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output {self.path}: expected a folder, found a file; name another")
        holds_results = self.read_log() or any(path.is_dir() for path in self._ours())
        if holds_results and not (resume or overwrite):
            found = "a finished run" if self.is_finished else "an unfinished run"
            raise ConfigError(
                f"output {self.path}: expected a new folder, found {found}; "
                "go on with it by --resume, delete it by --overwrite, or name another"
            )

    def begin(self, config: str, *, overwrite: bool, step: int) -> None:
        """Make the folder ready for a run.

        Args:
            config: the settings, as they are to stand in the folder.
            overwrite: delete the run that is there. Files that no run writes stay.
            step: how far the run has come. What was logged after it happens again, as in a run that was killed.
        """
        for path in self._ours() if overwrite else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        remove_scratch(self.path)
        self.metrics.unlink(missing_ok=True)  # while they are missing, the run is not over
        log = "".join(_line(entry) for entry in self.read_log() if entry["step"] <= step)
        self.write({self.log.name: log, self.config.name: config})

    def _ours(self) -> list[Path]:
        return sorted(path for path in self.path.glob("*") if _OURS.fullmatch(path.name))

    def append_log(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(_line(entry))

    def read_log(self) -> list[dict[str, Any]]:
        """The log, without a line that was not written to its end."""
        if not self.log.is_file():
            return []
        entries = map(_parsed, self.log.read_text(encoding="utf-8", errors="replace").splitlines())
        return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("step"), int)]

    def read_metrics(self) -> dict[str, Any]:
        """The results, or nothing if they are not there."""
        found = _parsed(self.metrics.read_text(encoding="utf-8")) if self.metrics.is_file() else None
        return found if isinstance(found, dict) else {}

    def write(self, files: Mapping[str, str], folder: Path | None = None) -> None:
        """Write text files whole: name to content."""
        with atomic_files(folder or self.path) as scratch:
            for name, text in files.items():
                (scratch / name).write_text(text, encoding="utf-8")

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write the results, which ends the run."""
        self.write({self.metrics.name: json.dumps(_finite(metrics), indent=2) + "\n"})


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(_finite(entry)) + "\n"


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
