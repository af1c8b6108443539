"""`deltatune tab fit`: a classifier of a table's rows, from some or all of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.tab.options import Answers, Data, Model, Query, Question, Target, answers_of
from deltatune.cli.verb import AsJson, Verb, console, print_json
from deltatune.errors import ConfigError


def fit(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write the classifier.")],
    target: Target = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots", "-k", metavar="N", min=0, help="Rows to learn from, as many of each class. Default: all."
        ),
    ] = None,
    model: Model = "tabllm",
    query: Query = None,
    question: Question = None,
    answers: Answers = [],  # noqa: B006  # typer reads it and makes a new list
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the draw, and of what is random.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the classifier in the folder.")] = False,
    json: AsJson = False,
) -> None:
    """Fit a classifier to rows of a table, and write it to a folder.

    tabllm is a language model that reads a row as text and answers a question about it, which it does without shots
    too. encoder is an encoder with a new head. Both train a delta, LoRA unless told otherwise.
    """
    from deltatune.apps.tab.contenders import Lesson, fit_classifier, read_classifier
    from deltatune.apps.tab.opening import open_data

    _check_free(out, overwrite=overwrite)
    classifier = read_classifier(model)
    opened = open_data(data, target, query=query, question=question, answers=answers_of(answers))
    start = time.perf_counter()
    lesson = Lesson.draw(opened, shots, seed)
    fitted = fit_classifier(classifier, lesson)
    seconds = time.perf_counter() - start
    fitted.save(out)
    if json:
        losses = {"first_loss": fitted.losses_[0], "last_loss": fitted.losses_[-1]} if fitted.losses_ else {}
        found = {"folder": out, "rows": lesson.shots, "classes": fitted.classes_.tolist(), "seconds": seconds}
        print_json(found | {"steps": len(fitted.losses_)} | losses)
        return
    console().print(
        f"done: {lesson.shots:,} of {len(opened.labels):,} rows, {len(fitted.losses_):,} steps, {seconds:.1f} s; "
        f"use it: deltatune tab predict {out} DATA",
        soft_wrap=True,
    )


def _check_free(out: Path, *, overwrite: bool) -> None:
    from deltatune.apps.tab.storing import FILE

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = (out / FILE).is_file()
    if not (ours and overwrite):
        found = "a classifier" if ours else "a folder of other things" if out.is_dir() else "a file"
        hint = "name another, or add --overwrite" if ours else "name another"
        raise ConfigError(f"--out {out}: expected a new folder, found {found}; {hint}")


VERB = Verb(
    fit,
    (
        ("deltatune tab fit car --shots 32 --out runs/car", "SmolLM2 learns from 32 rows"),
        ("deltatune tab fit loans.csv -t paid -q 'Was it paid back?' -a 1=yes -a 0=no -o runs/loans", "your own table"),
        ("deltatune tab fit loans.csv -t paid -m encoder -o runs/loans", "MiniLM with a head"),
        ("deltatune tab fit shop.duckdb --query 'select * from orders' -t returned -o runs/orders", "from a database"),
    ),
)
