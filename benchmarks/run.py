"""Run the benchmarks and write their results: ``results.json`` and the table in ``docs/benchmarks.md``.

python benchmarks/run.py              # all of them
python benchmarks/run.py lifecycle    # one
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from picture import draw

HERE = Path(__file__).parent
BENCHMARKS = {
    "lifecycle": ("lifecycle", ()),
    "methods-minilm": ("methods", ("minilm",)),
    "methods-smollm2": ("methods", ("smollm2",)),
}
"""Each benchmark's module and what its `main` is given."""


def main(names: list[str]) -> None:
    """Run the named benchmarks; results of the others stay as they were."""
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in names or BENCHMARKS:
        home, arguments = BENCHMARKS[name]
        module = importlib.import_module(home)
        figures = module.main(*arguments)
        results = json.loads(file.read_text()) if file.exists() else {}
        results[name] = {"what": module.__doc__.split("\n    python")[0], "machine": machine(), "figures": figures}
        file.write_text(json.dumps(results, indent=2) + "\n")
    page = HERE.parent / "docs" / "benchmarks.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(markdown(results))
    tasks = {task: rows for name, r in results.items() if name != "lifecycle" for task, rows in r["figures"].items()}
    if tasks:
        draw(tasks, page.parent / "methods.png")
    print(page.read_text())


def machine() -> str:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"{device}, Python {platform.python_version()}, torch {torch.__version__}"


def markdown(results: dict[str, Any]) -> str:
    """One section a benchmark, one row a figure."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Where two libraries are compared, they take turns in one run, figures are medians,",
        "and the last column is the peer's figure over ours: above 1, deltatune is faster or smaller.",
    ]
    for name, result in results.items():
        lines += [
            "",
            f"## {name.capitalize()}",
            "",
            result["what"].strip(),
            "",
            f"Measured on: {result['machine']}.",
            "",
        ]
        columns = list(next(iter(next(iter(result["figures"].values())).values())))
        lines += ["| | | " + " | ".join(columns) + " |", "| --- | --- |" + " ---: |" * len(columns)]
        for case, figures in result["figures"].items():
            lines += [
                f"| {case} | {what} | " + " | ".join(str(f[c]) for c in columns) + " |" for what, f in figures.items()
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
