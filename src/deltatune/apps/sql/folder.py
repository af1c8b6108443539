"""Where a Text-to-SQL system keeps its parts.

::

    output/
      sql.yaml       the settings, defaults filled in
      data/          what was learned from, as JSONL
      linker/        the trained linker, if there is one
      writer/        the run of the writer: as any training run, with its final/ inside
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deltatune.apps.sql.config import SqlConfig, load_sql_config
from deltatune.apps.sql.linking import CrossEncoder, EitherLinker, LexicalLinker, Linker
from deltatune.errors import ConfigError
from deltatune.io.digest import digest
from deltatune.train.folder import RunFolder

__all__ = ["SystemFolder"]


@dataclass(frozen=True)
class SystemFolder:
    """Where the parts of a system lie."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "sql.yaml"

    @property
    def data(self) -> Path:
        """What the writer learned from."""
        return self.path / "data" / "train.jsonl"

    @property
    def linker(self) -> Path:
        """The trained linker."""
        return self.path / "linker"

    @property
    def writer(self) -> Path:
        """The run of the writer."""
        return self.path / "writer"

    def read_config(self) -> SqlConfig:
        """The settings.

        Raises:
            ConfigError: there are none.
        """
        if not self.config.is_file():
            raise ConfigError(f"{self.path}: expected a Text-to-SQL system, found no {self.config.name}; train one")
        return load_sql_config(self.config)

    def digest(self) -> str:
        """What tells a system that was trained anew: a short hash of its settings and weights.

        Raises:
            DataError: a file can not be read.
        """
        weights = [*self.linker.rglob("*.safetensors"), *RunFolder(self.writer).final.rglob("*.safetensors")]
        return digest([self.config, *sorted(weights)])[:12]

    def open_linker(self) -> Linker:
        """The trained linker together with one that goes by words; the latter alone where none was trained."""
        words = LexicalLinker()
        return EitherLinker((CrossEncoder.load(self.linker), words)) if self.linker.is_dir() else words
