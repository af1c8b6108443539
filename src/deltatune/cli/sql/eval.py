"""`deltatune sql eval`: how often a system answers right, and what each of its parts is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli.models import Device, Dtype, Quant
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
from deltatune.cli.verb import AsJson, Verb, console, note, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from deltatune.apps.sql.study import Progress


def eval(
    system: System = Path("runs/sql"),
    database: Databases = [],  # noqa: B006  # typer reads it and makes a new list
    file: Files = [],  # noqa: B006
    dataset: Dataset = None,
    split: Split = "test",
    per_template: PerTemplate = 4,
    learned: Annotated[
        bool, typer.Option("--learned", help="Also ask new questions of the templates that training saw.")
    ] = False,
    limit: Limit = None,
    stages: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Such as base,+ calibration. Default: all, one part more at each."),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", "-n", metavar="N", min=2, help="Tries in the vote of self-consistency.")
    ] = 8,
    temperature: Annotated[float, typer.Option(metavar="X", min=0.01, help="That they are drawn with.")] = 0.7,
    seed: Seed = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Write report.json, report.md and report.png there."),
    ] = None,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Measure a system: execution accuracy, exact-set match and the share of SQL that runs, by difficulty.

    Without a file or data set the questions are made from templates that training never sees: of databases that the
    system was trained on ("unseen templates"), and of others that --database adds ("unseen database").

    The stages are base (the model alone, shown the whole schema), + linking, + fine-tuning, + constraint,
    + calibration and + self-consistency. With --out the same command goes on after the last stage that it finished.
    """
    from deltatune.apps.sql.folder import SystemFolder
    from deltatune.apps.sql.gather import dataset_abouts
    from deltatune.apps.sql.measuring import graded, question_groups, read_spec, spelled, that_run
    from deltatune.apps.sql.opening import open_writer
    from deltatune.apps.sql.scoring.table import remarks, rich_by_difficulty, rich_table
    from deltatune.apps.sql.scoring.writing import write_report
    from deltatune.apps.sql.study import STAGES, study
    from deltatune.apps.sql.system import open_sources

    output = console(stderr=json)
    folder = SystemFolder(system)
    config = folder.read_config()
    groups, found = question_groups(
        config,
        databases=named(database),
        files=file,
        dataset=dataset,
        split=split,
        per_template=per_template,
        learned=learned,
        limit=limit,
        seed=seed,
    )
    chosen = [each.strip() for each in stages.split(",")] if stages else list(STAGES)
    abouts = dataset_abouts(config.questions.dataset, read_spec(dataset) if dataset else None)
    with open_sources(found, values=config.prompt.values, abouts=abouts) as sources:
        groups = spelled(groups, sources)
        if dataset is not None:  # some of many thousand queries take minutes, or are wrong
            groups, wrong = that_run(groups, sources)
            for reason in wrong[:1]:
                note(f"left out {len(wrong)} questions whose right SQL does not run here, first {reason}")
        groups = graded(groups)
        writer = open_writer(system, dtype=dtype, quant=quant, device=device)
        total = sum(map(len, groups.values()))
        with _progress(output, chosen, total) as progress:
            report = study(
                writer,
                sources,
                groups,
                stages=chosen,
                samples=samples,
                temperature=temperature,
                seed=seed,
                about={
                    "base": config.base.model,
                    "delta": config.delta.method,
                    "system": folder.digest(),
                    "dtype": dtype or "as trained",
                    "quant": quant or "none",
                },
                file=None if out is None else out / "report.json",
                progress=progress,
            )
    if out is not None:
        write_report(report, out, "report")
    if json:
        print_json({name: value for name, value in report.to_dict().items() if name != "outcomes"})
        return
    output.print(rich_table(report))
    output.print(rich_by_difficulty(report))
    for line in remarks(report):
        output.print(line, style="dim", markup=False)


@contextmanager
def _progress(output: Console, stages: Sequence[str], total: int) -> Iterator[Progress]:
    """A bar for each stage for which something is written; a line for each where nobody sees bars."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output, transient=True) as bars:
        tasks = {stage: bars.add_task(stage, total=total, start=False) for stage in stages}

        def tell(stage: str, count: int) -> None:
            if not (output.is_terminal or bars.tasks[tasks[stage]].started):
                output.print(f"{stage} ...", style="dim")
            bars.start_task(tasks[stage])
            bars.advance(tasks[stage], count)

        yield tell


VERB = Verb(
    eval,
    (
        ("deltatune sql eval --system runs/sql --database macro=macro.sqlite --out results", "all stages"),
        ("deltatune sql eval --system runs/sql --dataset spider:data/spider:dev --limit 200", "on Spider"),
        ("deltatune sql eval --system runs/sql --file mine.jsonl --database shop=shop.db", "on your own questions"),
    ),
)
