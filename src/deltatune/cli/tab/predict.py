"""`deltatune tab predict`: the classes of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.models import Device
from deltatune.cli.tab.options import Data, Query
from deltatune.cli.verb import AsJson, Verb, console, print_json


def predict(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What deltatune tab fit wrote.")],
    data: Data,
    proba: Annotated[bool, typer.Option("--proba", help="Give the probability of each class too.")] = False,
    query: Query = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write the table with the predictions there: .csv, .parquet, .jsonl."
        ),
    ] = None,
    device: Device = None,
    json: AsJson = False,
) -> None:
    """Predict the classes of a table's rows. Columns that the classifier does not know are passed over.

    The columns are called "prediction" and, with --proba, "probability of ..." for each class. Without --out they alone
    are printed as CSV, a line for each row.
    """
    from deltatune.apps.tab.opening import (
        check_ending,
        check_room,
        load_classifier,
        open_rows,
        predictions,
        write_table,
    )

    rows = open_rows(data, query)
    if out is not None:
        check_ending(out)
        check_room(rows)
    classifier = load_classifier(folder, device=device)
    found = predictions(classifier, rows, probabilities=proba)
    if out is not None:
        write_table(rows.join(found), out)
    if json:
        counts = found["prediction"].value_counts().to_dict()
        print_json({"rows": len(found), "counts": counts, "predictions": found.to_dict(orient="list")})
    elif out is None:
        typer.echo(found.to_csv(index=False), nl=False)
    else:
        console().print(f"wrote {out}: {len(found):,} rows", soft_wrap=True)


VERB = Verb(
    predict,
    (
        ("deltatune tab predict runs/loans new.csv", "a class for each row"),
        (
            "deltatune tab predict runs/loans new.csv --proba --out new-with-classes.csv",
            "with probabilities, in a file",
        ),
    ),
)
