"""Every command in the pages can be typed as it stands: its verb and its options are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from deltatune.cli import app

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    fenced = re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("deltatune ") and "..." not in line.split('"')[0]]


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), ALL, ids=[f"{page}: {command[10:60]}" for page, command in ALL])
def test_a_documented_command_can_be_typed(page: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    group = typer.main.get_command(app)
    context = click.Context(group, info_name="deltatune")
    while isinstance(group, click.Group):
        name, found, words = group.resolve_command(context, words)
        assert found is not None, command
        group, context = found, click.Context(found, info_name=name, parent=context)
    group.make_context(context.info_name, list(words))  # raises if an option or an argument is none


def test_there_are_commands_to_look_at() -> None:
    assert len(ALL) > 40
