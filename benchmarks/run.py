"""Run the benchmarks and write their results: ``results.json``, and the page and its pictures in ``docs/``.

Each benchmark is a program of its own that prints its figures as JSON, so none is in the memory of another.

    python benchmarks/run.py              # all of them but for large
    python benchmarks/run.py lifecycle    # one
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from page import write

HERE = Path(__file__).parent
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "lifecycle": ("lifecycle.py",),
    "training": ("training.py",),
    "scoring": ("scoring.py",),
    "trunk": ("trunk.py",),
    "compiled": ("compiled.py",),
    "planning": ("planning.py",),
    "proxy": ("proxy.py",),
    "large": ("large.py",),
    "methods-minilm": ("methods.py", "minilm"),
    "methods-smollm2": ("methods.py", "smollm2"),
}
"""The program of each benchmark and what it is given."""
ONLY_IF_NAMED = {"large"}
"""What takes 14 GB of disk, and as much memory."""


def main(names: list[str]) -> None:
    """Run the named benchmarks; results of the others stay as they were."""
    file = HERE / "results.json"
    machine = call("machine.py")
    for name in names or [name for name in BENCHMARKS if name not in ONLY_IF_NAMED]:
        script, *arguments = BENCHMARKS[name]
        figures = call(script, *arguments)
        results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        results[name] = {"machine": machine, "figures": figures}
        file.write_text(json.dumps(results, indent=2) + "\n")
    by_script: dict[str, list[Any]] = {}
    for name, (script, *_) in BENCHMARKS.items():
        if name in results:
            by_script.setdefault(script, []).append(results[name])
    write(by_script, HERE.parent / "docs")


def call(script: str, *arguments: str) -> Any:
    """What a program prints."""
    command = [sys.executable, str(HERE / script), *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
