"""`deltatune sql make`: a financial database to practise on."""

from __future__ import annotations

from typing import Annotated

import typer

from deltatune.cli.verb import AsJson, Verb, console, print_json


def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="funds, equities or macro.")],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A new .sqlite or .duckdb file, or an address of SQLAlchemy's.")
    ],
    size: Annotated[str, typer.Option(metavar="SIZE", help="tiny, small, medium or large.")] = "small",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same values.")] = 0,
    json: AsJson = False,
) -> None:
    """Fill a database with invented financial data: wide tables, short column names, comments, keys.

    The same values come out in every kind of database. large has millions of rows.
    """
    from deltatune.apps.sql.generate import generate

    counts = generate(name, target, size=size, seed=seed)
    if json:
        print_json({"target": target, "rows": counts})
    else:
        rows = sum(counts.values())
        console().print(f"made {target}: {len(counts)} tables, {rows:,} rows", soft_wrap=True)


VERB = Verb(
    make,
    (
        ("deltatune sql make funds funds.sqlite", "99 thousand rows of investment funds"),
        ("deltatune sql make macro macro.duckdb --size large", "millions of rows, in DuckDB"),
        ("deltatune sql make equities postgresql://me@localhost/equities", "in a PostgreSQL server"),
    ),
)
