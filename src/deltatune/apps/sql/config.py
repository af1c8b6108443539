"""The settings of a Text-to-SQL system, as the command line reads them from YAML; checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from deltatune.apps.sql.naming import Names
from deltatune.apps.sql.prompts.prompt import PromptStyle
from deltatune.apps.sql.questions.difficulty import Difficulty
from deltatune.errors import ConfigError
from deltatune.train.config import SHORT, BaseSpec, DeltaSpec, Section, Share, Text, TrainSpec, Whole
from deltatune.train.config_file import load_settings
from deltatune.train.faults import fault_lines

__all__ = ["DatasetSpec", "LinkerSpec", "PromptSpec", "QuestionsSpec", "SqlConfig", "load_sql_config"]

Count: TypeAlias = Annotated[int, Field(ge=0)]


class DatasetSpec(Section):
    """A public data set, as it was unpacked. See `deltatune.apps.sql.readers`."""

    layout: Literal["spider", "bird", "wikisql", "bull"]
    """How it is laid out."""
    folder: Text
    """Where it lies; its databases are found in it."""
    split: Text = "train"
    """Which part."""
    limit: Whole | None = None
    """Use only so many of its questions, drawn by the seed. null: all."""


class QuestionsSpec(Section):
    """What to learn from. Several sources add up."""

    templates: Count = 10
    """Questions to make of each training template, for those of the databases that templates ask."""
    synthetic: Count = 0
    """Questions to make for each database from its schema and values alone."""
    hardest: Difficulty = "extra"
    """Make none that are harder: easy, medium, hard or extra."""
    paraphrases: Count = 0
    """Other wordings to add of each question."""
    files: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Files of your own questions: .jsonl, .json, .csv, .tsv or .parquet with question, sql and database."""
    dataset: DatasetSpec | None = None
    """A public data set."""
    seed: Count = 0
    """Of everything that is drawn."""


class PromptSpec(Section):
    """What the model is told, and what it writes."""

    tables: Whole = 3
    """Tables that a prompt shows."""
    columns: Whole = 7
    """Columns of each, keys that join the tables not counted. At asking they are shared out: a table of which more is
    likely gets more."""
    comments: bool = True
    """Say what tables and columns mean."""
    samples: Count = 1
    """Values of each column of text or dates to show."""
    values: bool = True
    """Look for values of the database in the question, and say which columns hold them."""
    budget: Whole = 1024
    """Tokens that a prompt may have; what does not fit is left out, the least important first."""
    answer: Literal["sql", "skeleton", "reasoning"] = "sql"
    """What to write: the SQL, its skeleton before it, or the steps that lead to it."""
    names: Names = "own"
    """What tables and columns are called: by the database's own names, or in words, by what their comments say. What
    the model writes is put back."""
    joins: bool = True
    """Let the model write joins. false: it writes none where they follow from the columns, and they are put in; the
    prompt then says nothing of keys."""
    share: Whole = 8
    """Training shows the same tables and columns to so many questions, if they have what these need. What their prompts
    begin with alike runs once."""

    def style(self) -> PromptStyle:
        """As prompts are written."""
        return PromptStyle(self.comments, self.samples, keys=self.joins, budget=self.budget)


class LinkerSpec(Section):
    """The cross-encoder that chooses what a prompt shows. See `deltatune.apps.sql.linking`."""

    method: DeltaSpec | None = None
    """What to attach to the encoder. null: LoRA."""
    base: Text = "minilm"
    """The encoder: a folder, a hub id or an alias."""
    steps: Whole | None = None
    """Optimiser steps. null: the linker's own default."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The highest learning rate. null: the linker's own default."""


class SqlConfig(Section):
    """A Text-to-SQL system: which base learns what, from which databases and questions."""

    base: BaseSpec
    """The model that writes SQL; plain text is its `model`."""
    delta: DeltaSpec
    """What to attach to it; plain text is its `method`."""
    databases: dict[str, str] = Field(default_factory=dict)
    """Name and address of each database: a file, or as SQLAlchemy writes it. Those of a data set are known."""
    questions: QuestionsSpec = QuestionsSpec()
    """What to learn from."""
    prompt: PromptSpec = PromptSpec()
    """What the model is told."""
    linker: LinkerSpec | None = LinkerSpec()
    """How tables and columns are chosen. null: by words alone, nothing is trained for it."""
    eval_share: Share = 0.0
    """Keep this share of the questions to measure the loss on."""
    train: TrainSpec = TrainSpec()
    """How to train the writer."""
    output: Text
    """The system's folder."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("base"), str):
            return {**data, "base": {SHORT["base"]: data["base"]}}
        return data


def load_sql_config(path: str | Path, overrides: Iterable[str] = ()) -> SqlConfig:
    """Read and check the settings of a Text-to-SQL system.

    Args:
        path: a YAML file.
        overrides: single settings that go before the file's, each `dotted.path=value`.

    Raises:
        ConfigError: the file can not be read, or settings are wrong; then one line for each fault.
    """
    settings = load_settings(path, overrides)
    try:
        return SqlConfig.model_validate(settings)
    except ValidationError as error:
        lines = fault_lines(error, SqlConfig.model_json_schema())
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None
