"""The folder of a comparison, and whether one may go on in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltatune
from deltatune.comparing.splits import SearchData
from deltatune.comparing.trials import read_json
from deltatune.differing import differing
from deltatune.errors import ConfigError
from deltatune.io.atomic import remove_scratch, write_json
from deltatune.io.digest import digest
from deltatune.train.config import RunConfig

__all__ = ["ComparisonFolder", "frame"]


@dataclass(frozen=True)
class ComparisonFolder:
    """A comparison's folder. `comparison.json` says what all its runs have in common."""

    path: Path

    @property
    def frame(self) -> Path:
        """What all runs have in common."""
        return self.path / "comparison.json"

    @property
    def data(self) -> Path:
        """The data of the runs."""
        return self.path / "data"

    @property
    def runs(self) -> Path:
        """The runs, in folders of their variants."""
        return self.path / "runs"

    @property
    def results(self) -> Path:
        """Everything that was found."""
        return self.path / "results.json"

    @property
    def table(self) -> Path:
        """The table, in Markdown."""
        return self.path / "table.md"

    @property
    def picture(self) -> Path:
        """Quality against memory."""
        return self.path / "pareto.png"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    def check(self, common: Mapping[str, Any], *, overwrite: bool) -> None:
        """See that a comparison may begin here, or go on. Nothing changes yet: it may be refused for another reason.

        Args:
            common: what all runs have in common, from :func:`frame`.
            overwrite: whether the comparison that is there is to be deleted.

        Raises:
            ConfigError: something else is there, or a comparison whose runs have other things in common.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"output {self.path}: expected a folder, found a file; name another")
        former = read_json(self.frame)
        if not former and self.path.is_dir() and any(self.path.iterdir()):
            found = "a run" if (self.path / "config.yaml").is_file() else "other files"
            raise ConfigError(
                f"output {self.path}: expected a new folder or a comparison's, found {found}; name another"
            )
        if former and former != common and self.runs.is_dir() and not overwrite:
            names = ", ".join(differing(former, common))
            raise ConfigError(
                f"output {self.path}: expected the settings that its runs were made with, found others for {names}; "
                "set them back, delete the runs by --overwrite, or name another folder"
            )

    def begin(self, common: Mapping[str, Any], *, overwrite: bool) -> None:
        """Make the folder ready for what :meth:`check` has let pass."""
        if overwrite:
            for folder in (self.runs, self.data):
                shutil.rmtree(folder, ignore_errors=True)
            for file in (self.results, self.table, self.picture, self.report, self.frame):
                file.unlink(missing_ok=True)
        remove_scratch(self.path)
        write_json(self.frame, common)


def frame(config: RunConfig, search: SearchData) -> dict[str, Any]:
    """What all runs of a comparison have in common, as plain data: a change of it makes them incomparable.

    Methods, seeds, learning rates and the metric are left out: more of them can be added to what is there.

    Raises:
        DataError: the data can not be read.
    """
    plain: dict[str, Any] = config.model_dump(mode="json", exclude={"delta", "deltas", "output"})
    plain["train"].pop("learning_rate")
    for name in ("train", "eval"):  # what is in the files counts, not where they lie
        plain["data"].pop(name)
    plain["search share"] = None if search.file else search.share
    plain["data files"] = digest((config.data.train, config.data.eval, search.file))
    plain["deltatune"] = deltatune.__version__
    return dict(json.loads(json.dumps(plain)))
