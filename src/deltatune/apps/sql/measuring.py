"""The questions that a system is measured on, none of which it has learned from."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deltatune.apps.sql.config import DatasetSpec, SqlConfig
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.gather import dataset_examples, read_questions, training_templates
from deltatune.apps.sql.questions import TEMPLATES, questions
from deltatune.apps.sql.questions.difficulty import difficulty
from deltatune.apps.sql.quotes import with_texts
from deltatune.apps.sql.readers import LAYOUTS
from deltatune.apps.sql.run import open_reader
from deltatune.apps.sql.scoring.scores import right_result
from deltatune.apps.sql.source import Source
from deltatune.apps.sql.split import split_templates
from deltatune.apps.sql.urls import dialect_of, parse_url
from deltatune.errors import ConfigError, DataError

__all__ = ["few_shot_questions", "graded", "question_groups", "read_spec", "spelled", "that_run"]

Groups = dict[str, list[Example]]
MEASURED = ("dev", "test")


def question_groups(
    config: SqlConfig,
    *,
    databases: Mapping[str, str],
    files: Sequence[Path] = (),
    dataset: str | None = None,
    split: str = "test",
    per_template: int = 4,
    learned: bool = False,
    limit: int | None = None,
    seed: int = 1,
) -> tuple[Groups, dict[str, str]]:
    """Questions with the right SQL in groups, and the addresses of their databases.

    Args:
        config: the system's settings, which know the databases that it learned from.
        databases: name and address of more databases, or of those in other places.
        files: records of question, sql and database.
        dataset: a public data set, as ``layout:folder:split``.
        split: of the templates, where there is neither file nor data set: "dev" or "test".
        per_template: questions to make of each template. Default: 4.
        learned: of templates that training saw too, questions that it did not see. Default: false.
        limit: questions of a group at most, drawn by the seed. Default: all.
        seed: of what is drawn. Default: 1, which is none that training draws by.

    Raises:
        ConfigError: there are no questions, two files have the same name, or a setting is wrong.
        DataError: a file can not be read.
    """
    if split not in MEASURED:
        raise ConfigError(f"--split: expected {' or '.join(MEASURED)}, found {split!r}; training saw all others")
    known = {**config.databases, **databases}
    dialects = _dialects(known)
    groups: Groups = {}
    for file in files:
        if file.stem in groups:
            raise ConfigError(f"--file {file}: expected names that tell the files apart, found another {file.stem}")
        groups[file.stem] = list(read_questions(file, dialects))
    if dataset is not None:
        found = dataset_examples(read_spec(dataset), seed)
        groups[dataset] = found
        known |= {each.database: str(each.path) for each in found if each.path is not None}
    if not groups:
        groups = _from_templates(known, set(config.databases), split, per_template, seed)
        if learned:
            groups["learned templates"] = _of_learned_templates(config, known, per_template, seed)
    rng = random.Random(seed)
    groups = {
        name: rng.sample(examples, limit) if limit is not None and limit < len(examples) else examples
        for name, examples in groups.items()
        if examples
    }
    if not groups:
        raise ConfigError(
            "questions: expected databases that templates ask (funds, equities, macro), found none; give --file"
        )
    return groups, {name: known[name] for name in _named(groups) if name in known}


def few_shot_questions(
    name: str,
    source: Source,
    *,
    support: Path | None = None,
    target: Path | None = None,
    per_template: int = 4,
    seed: int = 0,
) -> tuple[list[Example], list[Example]]:
    """Questions to learn a new database from, and others to ask then; of templates, no two of the same.

    Args:
        name: of the database.
        source: the database.
        support: a file with the former. Default: every other template makes them.
        target: a file with the latter. Default: the rest of the templates makes them.
        per_template: questions to ask of each template. Default: 4.
        seed: of what is drawn. Default: 0.

    Raises:
        ConfigError: one file is there without the other, neither file nor template, or a question is about another
            database.
    """
    if (support is None) != (target is None):
        raise ConfigError("--support and --target: expected both files, found one; give both")
    if support is not None and target is not None:
        return _about(name, source, support), _about(name, source, target)
    own = [template for template in TEMPLATES if template.database == name]
    if not own:
        known = ", ".join(sorted({template.database for template in TEMPLATES}))
        raise ConfigError(
            f"database: expected one that templates ask ({known}), found {name!r}; give --support, --target"
        )
    return (
        questions(source.reader, own[::2], per_template=10, seed=seed),
        questions(source.reader, own[1::2], per_template=per_template, seed=seed),
    )


def spelled(groups: Groups, sources: Mapping[str, Source]) -> Groups:
    """The groups with texts told from names, as `with_texts` tells them.

    Args:
        groups: questions by the name of their group.
        sources: the databases, by name; what is about another one is left as it is.
    """
    return {
        group: [
            with_texts(example, sources[example.database].schema) if example.database in sources else example
            for example in examples
        ]
        for group, examples in groups.items()
    }


def graded(groups: Groups) -> Groups:
    """The groups with a difficulty, by the rule of Spider, at each question to which nobody gave one.

    Raises:
        DataError: the right SQL of a question does not parse.
    """
    return {
        group: [each if each.difficulty else replace(each, difficulty=difficulty(each.tree())) for each in examples]
        for group, examples in groups.items()
    }


def that_run(groups: Groups, sources: Mapping[str, Source]) -> tuple[Groups, list[str]]:
    """The questions whose right SQL runs within the limits of its database, and what is wrong with the others.

    Args:
        groups: questions by the name of their group.
        sources: the databases, by name.
    """
    kept: Groups = {}
    wrong: list[str] = []
    for group, examples in groups.items():
        kept[group] = []
        for example in examples:
            try:
                right_result(example, sources[example.database].reader)
            except DataError as error:
                wrong.append(str(error))
            else:
                kept[group].append(example)
    return {group: examples for group, examples in kept.items() if examples}, wrong


def read_spec(text: str) -> DatasetSpec:
    """A public data set from text such as ``spider:data/spider:dev``.

    Raises:
        ConfigError: it is none.
    """
    layout, _, rest = text.partition(":")
    folder, _, split = rest.rpartition(":")
    if layout not in LAYOUTS or not folder or not split:
        raise ConfigError(
            f"--dataset {text}: expected LAYOUT:FOLDER:SPLIT with a layout among {', '.join(LAYOUTS)}; write it so"
        )
    return DatasetSpec(layout=layout, folder=folder, split=split)  # type: ignore[arg-type]  # it was looked up


def _dialects(addresses: Mapping[str, str]) -> dict[str, str]:
    return {name: dialect_of(parse_url(address)) for name, address in addresses.items()}


def _about(name: str, source: Source, file: Path) -> list[Example]:
    found = list(read_questions(file, {name: source.reader.dialect}))
    if other := next((each.database for each in found if each.database != name), None):
        raise ConfigError(f"{file}: expected questions about {name}, found one about {other!r}; leave it out")
    return [with_texts(example, source.schema) for example in found]


def _from_templates(known: Mapping[str, str], seen: set[str], split: str, per_template: int, seed: int) -> Groups:
    groups: Groups = {"unseen templates": [], "unseen database": []}
    for name, address in known.items():
        templates = split_templates(split) if name in seen else TEMPLATES
        with open_reader(address) as reader:
            own = [template for template in templates if template.database == name]
            made = questions(reader, own, per_template=per_template, seed=seed)
        groups["unseen templates" if name in seen else "unseen database"] += made
    return groups


def _of_learned_templates(config: SqlConfig, known: Mapping[str, str], per_template: int, seed: int) -> list[Example]:
    """New questions of the templates that the system learned from.

    Where training saw paraphrases, new is what has other SQL: any wording of a query may be one that it saw.
    """
    spec, found = config.questions, list[Example]()

    def told(example: Example) -> str:
        return example.sql if spec.paraphrases else example.question

    for name in config.databases:
        own = training_templates(spec, name)
        with open_reader(known[name]) as reader:
            seen = {told(each) for each in questions(reader, own, per_template=spec.templates, seed=spec.seed)}
            made = questions(reader, own, per_template=per_template, seed=seed)
        found += [example for example in made if told(example) not in seen]
    if not found:
        raise ConfigError(
            f"--learned: expected questions that training did not see, found none by seed {seed}; change it"
        )
    return found


def _named(groups: Groups) -> list[str]:
    return list(dict.fromkeys(example.database for examples in groups.values() for example in examples))
