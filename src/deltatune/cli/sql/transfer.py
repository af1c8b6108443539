"""`deltatune sql transfer`: what a new database with few examples gains from what was learned on others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.lists import whole_numbers
from deltatune.cli.models import Device, Dtype, Quant
from deltatune.cli.sql.options import named
from deltatune.cli.verb import AsJson, Verb, console, print_json
from deltatune.errors import ConfigError


def transfer(
    database: Annotated[
        str,
        typer.Argument(metavar="NAME=DB_URL", help="The new database, and how to call it."),
    ],
    system: Annotated[
        list[Path], typer.Option("--system", "-s", metavar="FOLDER", help="A system for each database learned on.")
    ],
    support: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that the few examples are drawn from.")
    ] = None,
    target: Annotated[Path | None, typer.Option(metavar="FILE", help="Questions that are asked then.")] = None,
    shots: Annotated[str, typer.Option(metavar="LIST", help="Numbers of examples.")] = "0,10,50",
    per_template: Annotated[int, typer.Option(metavar="N", min=1, help="Questions to ask of each template.")] = 4,
    how: Annotated[str, typer.Option(metavar="NAME", help="The way of composing: cat, or factors as FinSQL.")] = "cat",
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the few examples.")] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="X", help="The highest, on the few. Default: as the first system's.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of all that is drawn.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write transfer.json, .md and .png there.")
    ] = None,
    dtype: Dtype = None,
    quant: Quant = None,
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Compare the ways to a new database: the deltas of others alone and composed without an example; and with few
    examples, weights found by LoRAHub, training on from the composition, and training from scratch.

    The linker and the prompts are those of the first system. Of a database that templates ask, every other template
    gives the examples, and the rest is asked. With --out the same command goes on after the last way that it finished.
    """
    from deltatune.apps.sql.about import NOTHING_SAID
    from deltatune.apps.sql.folder import SystemFolder
    from deltatune.apps.sql.gather import dataset_abouts
    from deltatune.apps.sql.measuring import few_shot_questions
    from deltatune.apps.sql.opening import open_writer, put_on
    from deltatune.apps.sql.scoring.table import rich_table
    from deltatune.apps.sql.scoring.writing import write_report
    from deltatune.apps.sql.source import open_source
    from deltatune.apps.sql.transfer import FewShots
    from deltatune.apps.sql.transfer import transfer as measure
    from deltatune.io.digest import written_digests

    [(name, address)] = named([database]).items()
    output, counts = console(stderr=json), whole_numbers("--shots", shots)
    folders = [SystemFolder(each) for each in system]
    config = folders[0].read_config()
    for each in folders:
        if name in each.read_config().databases:
            raise ConfigError(f"{name}: expected a database that is new, found one that {each.path} learned from")
    rate = config.train.learning_rate if learning_rate is None else learning_rate
    settings = FewShots(epochs=epochs, how=how, learning_rate=rate, seed=seed)  # type: ignore[arg-type]  # it is checked
    about = dataset_abouts(config.questions.dataset).get(name, NOTHING_SAID)
    with open_source(address, name=name, values=config.prompt.values, about=about) as source:
        few, asked = few_shot_questions(
            name, source, support=support, target=target, per_template=per_template, seed=seed
        )
        writer = open_writer(system[0], dtype=dtype, quant=quant, device=device)
        names = put_on(writer, system)
        report = measure(
            writer,
            names,
            config.delta.build(),
            source,
            few,
            asked,
            config.prompt,
            shots=counts,
            few=settings,
            about={
                "systems": written_digests(
                    {name: folder.digest() for name, folder in zip(names, folders, strict=True)}
                ),
                "dtype": dtype or "as trained",
                "quant": quant or "none",
            },
            file=None if out is None else out / "transfer.json",
            progress=lambda way: output.print(f"{way} ...", style="dim", markup=False),
        )
    if out is not None:
        write_report(report, out, "transfer")
    if json:
        print_json({key: value for key, value in report.to_dict().items() if key != "outcomes"})
    else:
        output.print(rich_table(report))


VERB = Verb(
    transfer,
    (
        ("deltatune sql transfer macro=macro.sqlite -s runs/funds -s runs/equities", "0, 10 and 50 examples"),
        ("deltatune sql transfer shop=shop.db -s runs/a -s runs/b --support few.jsonl --target test.jsonl", "your own"),
    ),
)
