"""`deltatune schema`: the settings of a run, for editors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from deltatune.cli.verb import Verb, check_new
from deltatune.errors import ConfigError


def schema(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="run, for deltatune train; or sql, for deltatune sql train.")
    ] = "run",
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A page that people read, without those of methods.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it to this file.")] = None,
) -> None:
    """Print the JSON Schema of the settings of a run, all methods included, for editors to complete and check."""
    import json

    if what not in _SCHEMAS:
        raise ConfigError(f"WHAT: expected one of {', '.join(_SCHEMAS)}, found {what!r}; choose one of them")
    found = _SCHEMAS[what]()
    if markdown:
        from deltatune.train.settings_page import settings_page

        text = settings_page(found, f"deltatune schema {what} --markdown")
    else:
        text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        check_new("--out", out)
        out.write_text(text, encoding="utf-8")


def _run() -> dict[str, Any]:
    from deltatune.train.config_file import config_schema

    return config_schema()


def _sql() -> dict[str, Any]:
    from deltatune.apps.sql.config import SqlConfig
    from deltatune.train.config_file import config_schema

    return config_schema(SqlConfig, "A Text-to-SQL system of deltatune")


_SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {"run": _run, "sql": _sql}


VERB = Verb(
    schema,
    (
        ("deltatune schema", "all settings, with their defaults"),
        ("deltatune schema sql --markdown", "those of a Text-to-SQL system, to read"),
        ("deltatune schema --out deltatune.json", "for an editor; put this line on top of a config:"),
        ("# yaml-language-server: $schema=deltatune.json", "YAML settings that complete and check themselves"),
    ),
)
