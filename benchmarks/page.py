"""The page of the benchmarks and its pictures, from their results."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from picture import draw_methods, draw_training

HEAD = """# Benchmarks

Written by `make bench`. Where two libraries are compared, they take turns in one run, and figures are medians."""

Figures = dict[str, dict[str, dict[str, Any]]]
"""By case and row, the columns."""

PICTURES: dict[str, Callable[[Figures, Path], None]] = {"training.py": draw_training, "methods.py": draw_methods}
"""What draws the results of a program."""


def write(results: Mapping[str, list[dict[str, Any]]], docs: Path) -> None:
    """Write the page and the pictures into ``docs``.

    Args:
        results: for each program the results of its runs, each with its figures and the machine they are from.
        docs: the folder.
    """
    docs.mkdir(exist_ok=True)
    lines = [HEAD]
    for script, runs in results.items():
        title = Path(script).stem
        lines += ["", f"## {title.capitalize()}", "", what(script)]
        if script in PICTURES:
            PICTURES[script](
                {case: rows for run in runs for case, rows in run["figures"].items()}, docs / f"{title}.png"
            )
            lines += ["", f"![{title.capitalize()}, as in the table]({title}.png)"]
        for run in runs:
            lines += ["", f"Measured on: {run['machine']}.", "", *table(run["figures"])]
    (docs / "benchmarks.md").write_text("\n".join(lines) + "\n")


def what(script: str) -> str:
    """What a program measures, in its own words; how to call it is left out."""
    text = ast.get_docstring(ast.parse((Path(__file__).parent / script).read_text()))
    assert text is not None
    return text.split("\n    python")[0].strip()


def table(figures: Figures) -> list[str]:
    """One row of figures a line."""
    columns = list(next(iter(next(iter(figures.values())).values())))
    lines = ["| | | " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * len(columns)]
    for case, rows in figures.items():
        lines += [f"| {case} | {row} | " + " | ".join(str(f[c]) for c in columns) + " |" for row, f in rows.items()]
    return lines
