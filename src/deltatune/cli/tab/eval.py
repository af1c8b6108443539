"""`deltatune tab eval`: AUC by the number of shots, next to what tables are usually classified by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltatune.cli.lists import listed, whole_numbers
from deltatune.cli.tab.options import Answers, Query, Question, Target, answers_of
from deltatune.cli.verb import AsJson, Verb, console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from deltatune.apps.tab.evaluate import Progress
    from deltatune.apps.tab.report import TabReport
    from deltatune.apps.tab.results import Result


def eval(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="Names of data sets, such as car, or files, which all have the same --target."
        ),
    ],
    models: Annotated[
        list[str],
        typer.Option(
            "--models",
            "-m",
            metavar="LIST",
            help="What to measure: tabllm, encoder, logistic, forest, boosting; the first two with settings, as "
            "tabllm:base=smollm2,method=lora. Default: tabllm and the last three.",
        ),
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    shots: Annotated[
        str, typer.Option(metavar="LIST", help="Numbers of rows to learn from; all for all of them.")
    ] = "0,4,8,16,32,64",
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Of the splits, the draws and the models; one after the other.")
    ] = "42,1024,0,1,32",
    test_rows: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rows to judge by at most. Default: a fifth of all.")
    ] = None,
    target: Target = None,
    query: Query = None,
    question: Question = None,
    answers: Answers = [],  # noqa: B006
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Keep results there, go on with them, and write report.json, .md, .png.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure models on tables by AUC, over the number of rows they learn from.

    For each data set and seed a fifth of the rows is for testing, and shots are drawn from the rest, as many of each
    class; all models have the same rows. The baselines tune their settings by cross-validation on the shots.

    With --out the same command goes on where it was stopped, and what is there already is not measured again by one
    with more models, shots or seeds; the report is of those that the command names.
    """
    from deltatune.apps.tab.evaluate import DEFAULT_MODELS, evaluate
    from deltatune.apps.tab.opening import open_data
    from deltatune.apps.tab.table import remarks, rich_table

    screen = console(stderr=json)
    said = answers_of(answers)
    with _progress(screen) as progress:
        report = evaluate(
            [open_data(each, target, query=query, question=question, answers=said) for each in data],
            models or DEFAULT_MODELS,
            shots=[None if each == "all" else whole_numbers("--shots", each)[0] for each in listed(shots)],
            seeds=whole_numbers("--seeds", seeds),
            test_rows=test_rows,
            folder=out,
            progress=progress,
        )
    if out is not None:
        _write(report, out)
    if json:
        print_json(report.to_dict())
    else:
        screen.print(rich_table(report))
        for line in remarks(report):
            screen.print(f"  {line}", style="dim", markup=False, soft_wrap=True)
        if out is not None:
            screen.print(f"done: see {out / 'report.md'}", soft_wrap=True)
    if report.failed:
        raise typer.Exit(1)


def _write(report: TabReport, folder: Path) -> None:
    from deltatune.apps.tab.plot import plot_report
    from deltatune.apps.tab.table import markdown
    from deltatune.io.atomic import atomic_files
    from deltatune.train.plot import can_plot

    report.save(folder / "report.json")
    with atomic_files(folder) as scratch:
        (scratch / "report.md").write_text(markdown(report), encoding="utf-8")
    if can_plot():
        plot_report(report, folder / "report.png")


@contextmanager
def _progress(screen: Console) -> Iterator[Progress]:
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from deltatune.apps.tab.report import shots_text

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int, result: Result) -> None:
            found = f"{result.data}, {result.model}, k = {shots_text(result.shots)}"
            if not screen.is_terminal:  # nobody sees bars
                screen.print(f"{done}/{total} {found}, seed {result.seed}", style="dim", markup=False, soft_wrap=True)
            bar.update(task, completed=done, total=total, description=escape(found))

        yield tell


VERB = Verb(
    eval,
    (
        ("deltatune tab eval car heart --shots 0,4,16,64 --out results", "TabLLM and the baselines on two data sets"),
        ("deltatune tab eval car -m tabllm:method=lora,tabllm:method=ia3,boosting --seeds 0,1,2", "two methods"),
        (
            "deltatune tab eval loans.csv --target paid --question 'Was it paid back?' -a 1=yes -a 0=no",
            "your own table",
        ),
    ),
)
