"""The model card beside a saved delta."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.summary import base_size

__all__ = ["write_card"]


def write_card(path: Path, model: nn.Module, delta: Delta, about: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write ``README.md``: what the delta is, on which base, how it was made and how to use it.

    Args:
        path: the file.
        model: the base.
        delta: what was saved.
        about: the header of its tensor file.
        facts: further rows of the table, such as data, steps and scores.
    """
    base = about["base"]["name_or_path"] or about["base"]["architecture"]
    total = base_size(model)
    rows = {
        "Base": f"`{base}` ({about['base']['architecture']})",
        "Method": f"`{delta.method.key}`",
        "Parameters": f"{delta.size:,} ({delta.size / total:.3%} of the base)",
        "Sites": f"{len(delta.sites)} modules",
        "Made with": f"deltatune {about['version']}",
        **facts,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    settings = json.dumps(about["method"], indent=2, sort_keys=True)
    front = f"---\nbase_model: {json.dumps(base)}\nlibrary_name: peft\ntags:\n- deltatune\n- {delta.method.key}\n---\n"
    path.write_text(
        f"{front}\n# {delta.name}\n\nA delta for `{base}`: attach it to that base.\n\n"
        f"| | |\n| --- | --- |\n{table}\n\n"
        f'## Use\n\n```python\nimport deltatune as dt\n\ndt.load(model, "path/to/this/folder")\n```\n\n'
        f"## Settings\n\n```json\n{settings}\n```\n",
        encoding="utf-8",
    )
