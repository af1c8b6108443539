"""`deltatune schema`: the settings of a run, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltatune.cli.verb import Verb, print_json


def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it to this file.")] = None,
) -> None:
    """Print the JSON Schema of the settings of a run, all methods included, for editors to complete and check."""
    import json

    from deltatune.train.config_file import config_schema

    found = config_schema()
    if out is None:
        print_json(found)
    else:
        out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


VERB = Verb(
    schema,
    (
        ("deltatune schema", "all settings, with their defaults"),
        ("deltatune schema --out deltatune.json", "for an editor; put this line on top of a config:"),
        ("# yaml-language-server: $schema=deltatune.json", "YAML settings that complete and check themselves"),
    ),
)
