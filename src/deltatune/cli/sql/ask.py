"""`deltatune sql ask`: a question in, SQL and rows out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.cli.models import Device, Dtype, Quant
from deltatune.cli.sql.options import System
from deltatune.cli.verb import AsJson, Verb, console, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from deltatune.apps.sql.asking import Answer


def ask(
    database: Annotated[
        str, typer.Argument(metavar="DB_URL", help="A .sqlite, .db or .duckdb file, or an address of SQLAlchemy's.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In plain language.")],
    system: System = Path("runs/sql"),
    samples: Annotated[
        int, typer.Option("--samples", "-n", metavar="N", min=1, help="Tries; the result of most of them counts.")
    ] = 1,
    temperature: Annotated[
        float, typer.Option(metavar="X", min=0.01, help="That all but the first try are drawn with.")
    ] = 0.7,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--raw", help="Mend the SQL before it runs, or run it as it was written.")
    ] = True,
    constrained: Annotated[
        bool, typer.Option("--constrain/--free", help="Write no words but those of SQL and of the prompt, or any.")
    ] = True,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Rows to show at most.")] = 20,
    seconds: Annotated[float, typer.Option(metavar="X", min=0.1, help="Time that a query may take.")] = 10.0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of what is drawn.")] = 0,
    show_prompt: Annotated[bool, typer.Option("--show-prompt", help="Show what the model was told.")] = False,
    reindex: Annotated[bool, typer.Option("--reindex", help="Look through the values of the database anew.")] = False,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Answer a question by a database: the SQL, what was mended in it, and the rows.

    The database is only read: what runs is one SELECT that was parsed, checked and written anew, on a connection that
    can not write, within limits of time and rows.
    """
    from deltatune.apps.sql.about import NOTHING_SAID
    from deltatune.apps.sql.asking import ask as answers
    from deltatune.apps.sql.folder import SystemFolder
    from deltatune.apps.sql.gather import dataset_abouts
    from deltatune.apps.sql.opening import open_writer
    from deltatune.apps.sql.run import Limits
    from deltatune.apps.sql.source import open_source
    from deltatune.apps.sql.urls import name_of

    out = console(stderr=json)
    config = SystemFolder(system).read_config()
    about = dataset_abouts(config.questions.dataset).get(name_of(database), NOTHING_SAID)
    limits = Limits(seconds=seconds, rows=max(rows, 1000))
    with open_source(database, values=config.prompt.values, reindex=reindex, limits=limits, about=about) as source:
        writer = open_writer(system, dtype=dtype, quant=quant, device=device)
        if show_prompt:
            out.print(writer.prompter.prompts([question], source)[0].text, markup=False, soft_wrap=True)
        [answer] = answers(
            writer,
            source,
            [question],
            calibrate=calibrate,
            constrained=constrained,
            samples=samples,
            temperature=temperature,
            seed=seed,
        )
    if json:
        print_json(_plain(answer, rows))
    else:
        _show(out, answer, rows)
    if answer.result is None:
        raise typer.Exit(1)


def _plain(answer: Answer, rows: int) -> dict[str, Any]:
    chosen, result = answer.chosen, answer.result
    return {
        "question": answer.question,
        "sql": answer.sql,
        "repairs": [{"kind": each.kind, "before": each.before, "after": each.after} for each in answer.repairs],
        "problem": chosen.problem,
        "columns": result.columns if result else None,
        "rows": result.rows[:rows] if result else None,
        "more_rows": bool(result and (result.cut or len(result.rows) > rows)),
        "seconds": result.seconds if result else None,
        "votes": answer.vote.size,
        "tries": answer.tries,
    }


def _show(out: Console, answer: Answer, rows: int) -> None:
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    out.print(Syntax(answer.sql, "sql", word_wrap=True, background_color="default"))
    for repair in answer.repairs:
        out.print(f"mended: {repair}", style="yellow", markup=False, soft_wrap=True)
    if answer.tries > 1:
        out.print(f"{answer.vote.size} of {answer.tries} tries agree", style="dim")
    result = answer.result
    if result is None:
        out.print(f"no rows: {answer.chosen.problem}", style="bold red", markup=False, soft_wrap=True)
        return
    table = Table()
    for name in result.columns:
        table.add_column(Text(str(name)))
    for row in result.rows[:rows]:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    out.print(table)
    out.print(f"{_counted(len(result.rows), rows, cut=result.cut)}, {result.seconds:.2f} s", style="dim")


def _counted(found: int, shown: int, *, cut: bool) -> str:
    """How many rows there are, and how many of them are shown."""
    count = f"{'more than ' if cut else ''}{found:,} {'row' if found == 1 and not cut else 'rows'}"
    return f"{min(found, shown):,} of {count}" if cut or found > shown else count


VERB = Verb(
    ask,
    (
        ('deltatune sql ask funds.sqlite "How many bond funds are there?"', "by the system in runs/sql"),
        ('deltatune sql ask postgresql://me@host/db "..." --system runs/mine -n 8', "the result of most of 8 tries"),
        ('deltatune sql ask funds.duckdb "..." --free --raw --show-prompt', "see what the model gets and writes"),
    ),
)
