"""`deltatune compare`: several methods on the same data, and what each reaches and takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.lists import whole_numbers
from deltatune.cli.verb import AsJson, Verb, console, print_json


def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The settings of a run, in YAML.")],
    methods: Annotated[
        list[str],
        typer.Option(
            "--methods", "-m", metavar="LIST", help="What to compare, as lora,lora:r=16,bitfit. Default: every method."
        ),
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    seeds: Annotated[str, typer.Option(metavar="LIST", help="The seeds of each method's runs.")] = "0,1,2",
    search: Annotated[
        str | None,
        typer.Option(
            metavar="RATES", help="Choose each method's learning rate: among 1e-4,1e-3 and so on, or by auto."
        ),
    ] = None,
    search_share: Annotated[
        float, typer.Option(metavar="SHARE", help="The share of the training data that the choice is made on.")
    ] = 0.2,
    search_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make the choice on these records in place of a share.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="accuracy, macro_f1, loss, perplexity or token_accuracy. Default: accuracy, or loss."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Default: the config's output.")
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="Change a setting of the config.")
    ] = [],  # noqa: B006
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the comparison that is in the folder.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Train several methods on the same data, seeds and number of tokens, and compare quality, memory, time and size.

    A method is a key from [bold]deltatune methods[/], with settings after a colon if any. Besides: base (nothing is
    trained, or of a classifier the head alone), full (full fine-tuning) and config (what the config attaches).

    Each run is a process of its own. The same command goes on with a comparison that was stopped, and with more methods
    or seeds it adds to one that is over. The folder gets table.md, pareto.png, report.html and results.json.
    """
    from deltatune.comparing.study import compare as run
    from deltatune.comparing.table import remarks, rich_table, setting
    from deltatune.train.config_file import load_config

    screen = console(stderr=json)
    found = run(
        load_config(config, set_),
        methods or None,
        seeds=whole_numbers("--seeds", seeds),
        learning_rates=search,
        search_share=search_share,
        search_data=search_data,
        metric=metric,
        output=out,
        overwrite=overwrite,
        console=screen,
    )
    if json:
        print_json(found.to_dict())
    else:
        screen.print(rich_table(found, screen.width))
        for line in [*setting(found), *remarks(found)]:
            screen.print(f"  {line}", style="dim", markup=False, soft_wrap=True)
        screen.print(f"done: see {found.folder / 'report.html'}", soft_wrap=True)
    if found.failed:
        raise typer.Exit(1)


VERB = Verb(
    compare,
    (
        ("deltatune compare config.yaml --methods lora,dora,bitfit", "three methods, three seeds each"),
        ("deltatune compare config.yaml -m lora:r=4,lora:r=16,full,base --seeds 0", "ranks, and the two ends"),
        ("deltatune compare config.yaml --search auto", "every method, each at a learning rate of its own"),
        ("deltatune compare config.yaml -m lora,ia3 --search 1e-3,3e-3,1e-2 --metric macro_f1", "search in a grid"),
    ),
)
