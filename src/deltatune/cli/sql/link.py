"""`deltatune sql link`: how often the tables and columns that a question needs are found."""

from __future__ import annotations

from pathlib import Path

from deltatune.cli.sql.options import (
    Databases,
    Dataset,
    Files,
    Limit,
    PerTemplate,
    Seed,
    Split,
    System,
    named,
)
from deltatune.cli.verb import AsJson, Verb, console, print_json


def link(
    system: System = Path("runs/sql"),
    database: Databases = [],  # noqa: B006  # typer reads it and makes a new list
    file: Files = [],  # noqa: B006
    dataset: Dataset = None,
    split: Split = "test",
    per_template: PerTemplate = 4,
    limit: Limit = None,
    seed: Seed = 1,
    json: AsJson = False,
) -> None:
    """Measure the linker of a system on questions that training never saw: recall@k of tables and of columns.

    "whole" is the share of questions for which the prompt shows all that the query needs. Words alone, the system's
    linker, and both with the values that the question names are measured.
    """
    from rich.text import Text

    from deltatune.apps.sql.folder import SystemFolder
    from deltatune.apps.sql.gather import dataset_abouts
    from deltatune.apps.sql.linking import LexicalLinker, ValueLinker
    from deltatune.apps.sql.linking.recall import recall
    from deltatune.apps.sql.measuring import question_groups, read_spec, spelled
    from deltatune.apps.sql.system import open_sources

    folder = SystemFolder(system)
    config = folder.read_config()
    prompt = config.prompt
    groups, found = question_groups(
        config,
        databases=named(database),
        files=file,
        dataset=dataset,
        split=split,
        per_template=per_template,
        limit=limit,
        seed=seed,
    )
    abouts = dataset_abouts(config.questions.dataset, read_spec(dataset) if dataset else None)
    with open_sources(found, abouts=abouts) as sources:
        groups = spelled(groups, sources)
        schemas = {name: source.schema for name, source in sources.items()}
        indexes = {source.schema.name: source.values for source in sources.values() if source.values is not None}
        linkers = {"words": LexicalLinker()} | ({"linker": folder.open_linker()} if folder.linker.is_dir() else {})
        linkers |= {f"{name} + values": ValueLinker(linker, indexes) for name, linker in linkers.items()}
        measured = {
            group: {
                name: recall(linker, examples, schemas, tables=prompt.tables, columns=prompt.columns)
                for name, linker in linkers.items()
            }
            for group, examples in groups.items()
        }
    if json:
        print_json({group: {name: each.to_dict() for name, each in own.items()} for group, own in measured.items()})
        return
    for group, own in measured.items():
        for name, each in own.items():
            console().print(Text(f"{group}: {name}"), each)


VERB = Verb(
    link,
    (
        ("deltatune sql link --system runs/sql --database macro=macro.sqlite", "on templates and a database not seen"),
        ("deltatune sql link --system runs/sql --dataset spider:data/spider:dev --json", "on Spider"),
    ),
)
