"""The questions that a system learns from, as its settings say: templates, synthesis, paraphrases, files, data sets."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlglot import Dialect

from deltatune.apps.sql.about import About, read_abouts
from deltatune.apps.sql.augment import paraphrase
from deltatune.apps.sql.config import DatasetSpec, QuestionsSpec, SqlConfig
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.questions import Template, questions
from deltatune.apps.sql.questions.difficulty import no_harder
from deltatune.apps.sql.quotes import with_texts
from deltatune.apps.sql.readers import read_dataset
from deltatune.apps.sql.source import Source
from deltatune.apps.sql.split import split_templates
from deltatune.apps.sql.synthesis import held_out, synthesize
from deltatune.apps.sql.urls import DIALECTS
from deltatune.errors import ConfigError, DataError
from deltatune.train.readers import open_source as open_records

__all__ = ["addresses", "dataset_abouts", "dataset_examples", "gather", "read_questions", "training_templates"]

FIELDS = ("question", "sql", "database")


def addresses(config: SqlConfig) -> dict[str, str]:
    """Name and address of each database: those that the settings name, and those of the data set.

    Raises:
        ConfigError: there are none.
    """
    found = dict(config.databases)
    if config.questions.dataset is not None:
        for example in dataset_examples(config.questions.dataset, config.questions.seed):
            if example.path is not None:
                found.setdefault(example.database, str(example.path))
    if not found:
        raise ConfigError("databases: expected one or more, found none; add databases: {funds: funds.sqlite}")
    return found


def gather(spec: QuestionsSpec, sources: Mapping[str, Source]) -> list[Example]:
    """All questions that the settings ask for, no two of a database alike.

    What is synthesised never has the SQL of a template that is held out for development or test, values aside.

    Args:
        spec: the settings.
        sources: the databases, by name.

    Raises:
        ConfigError: there is no question at all, or one is about a database that is not there.
        DataError: a file or a data set can not be read.
    """
    found: dict[tuple[str, str], Example] = {}
    for example in _drawn(spec, sources):
        if example.database not in sources:
            raise ConfigError(
                f"questions: expected databases among {', '.join(sources)}, found {example.database!r}; add its address"
            )
        told = with_texts(example, sources[example.database].schema)
        found.setdefault((example.database, example.question), told)
    if not found:
        raise ConfigError("questions: expected some, found none; set questions.templates, synthetic or files")
    others = (
        [
            other
            for number, example in enumerate(found.values())
            for other in paraphrase(example, spec.paraphrases, spec.seed + number)
        ]
        if spec.paraphrases
        else []
    )
    for other in others:
        found.setdefault((other.database, other.question), other)
    return list(found.values())


def training_templates(spec: QuestionsSpec, database: str) -> list[Template]:
    """The templates that a system learns a database from, none harder than the settings allow."""
    return [
        template
        for template in split_templates("train")
        if template.database == database and no_harder(template.difficulty, spec.hardest)
    ]


def dataset_examples(spec: DatasetSpec, seed: int) -> list[Example]:
    """The questions of a public data set."""
    examples = read_dataset(spec.folder, spec.layout, spec.split)
    if spec.limit is not None and spec.limit < len(examples):
        return random.Random(seed).sample(examples, spec.limit)
    return examples


def dataset_abouts(*specs: DatasetSpec | None) -> dict[str, About]:
    """What public data sets say of their databases, by name; the last one counts."""
    found: dict[str, About] = {}
    for spec in specs:
        if spec is not None:
            found |= read_abouts(spec.folder, spec.layout, spec.split)
    return found


def _drawn(spec: QuestionsSpec, sources: Mapping[str, Source]) -> Iterator[Example]:
    kept_away = held_out([*split_templates("dev"), *split_templates("test")]) if spec.synthetic else frozenset()
    for name, source in sources.items():
        reader = source.reader
        if spec.templates:
            templates = training_templates(spec, name)
            yield from questions(reader, templates, per_template=spec.templates, seed=spec.seed)
        if spec.synthetic:
            yield from synthesize(
                reader,
                count=spec.synthetic,
                seed=spec.seed,
                exclude=kept_away,
                hardest=spec.hardest,
            )
    dialects = {name: source.reader.dialect for name, source in sources.items()}
    for file in spec.files:
        yield from read_questions(Path(file), dialects)
    if spec.dataset is not None:
        yield from dataset_examples(spec.dataset, spec.seed)


def read_questions(file: Path, dialects: Mapping[str, str]) -> Iterator[Example]:
    """Records of question, sql and database, and dialect and evidence if they are there.

    Args:
        file: the records.
        dialects: what the databases speak, by name: the SQL of a record that names no dialect is in its database's.

    Raises:
        DataError: the file can not be read, or a record lacks something or names a dialect that is none.
    """
    _, rows = open_records(file)
    for origin, row in rows:
        yield _example(row, str(origin), dialects)


def _example(row: Any, origin: str, dialects: Mapping[str, str]) -> Example:
    missing = [name for name in FIELDS if not isinstance(row, Mapping) or not isinstance(row.get(name), str)]
    if missing:
        raise DataError(f"{origin}: expected text in {', '.join(FIELDS)}, found none in {', '.join(missing)}; add it")
    named = str(row.get("dialect") or dialects.get(row["database"], "sqlite"))
    dialect = DIALECTS.get(named, named)
    if Dialect.get(dialect) is None:
        raise DataError(f"{origin}: expected a dialect such as {', '.join(DIALECTS)}, found {named!r}; correct it")
    return Example(
        question=row["question"],
        sql=row["sql"],
        database=row["database"],
        dialect=dialect,
        evidence=row.get("evidence") or "",
    )
