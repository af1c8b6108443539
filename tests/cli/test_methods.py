"""`deltatune methods` tries every method and tells what came of it."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from deltatune.cli import app
from deltatune.methods import METHODS


def test_every_method_is_tried() -> None:
    result = CliRunner().invoke(app, ["methods", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["methods"]
    assert set(rows) == set(METHODS)
    assert rows["lora"] == {"attach": "yes", "parameters": 3584, "share": rows["lora"]["share"]} | dict.fromkeys(
        ("train", "save", "peft", "route", "merge"), "yes"
    )
    assert "activation" in rows["pfeiffer"]["merge"]
    assert "every row shares" in rows["child"]["route"]
    assert rows["parallel"]["route"] == "yes"
    assert "add_missing" in rows["bitfit"]["attach"]


def test_the_table_shows_every_method_and_why_not() -> None:
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 0, result.output
    assert all(key in result.stdout for key in METHODS)
    assert "keep it attached" in " ".join(result.stdout.split())
