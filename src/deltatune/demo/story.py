"""The story of the demo: questions to a financial database before and after a few minutes of training."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from deltatune.apps.sql.scoring.report import Report
    from deltatune.apps.sql.scoring.scores import Outcome

__all__ = ["story"]

OUT = Path("runs/demo")
DATABASE = "funds"
GROUP = "unseen templates"
PER_TEMPLATE = 2
SHOWN_ROWS = 3

SETTINGS: dict[str, Any] = {
    "base": {"model": "smollm2", "dtype": "float32"},
    "delta": {"method": "lora", "r": 16, "alpha": 32, "targets": "all_linear"},
    "questions": {"templates": 12, "synthetic": 400},
    "prompt": {"tables": 3, "columns": 6},
    "linker": None,
    "train": {
        "epochs": 1,
        "learning_rate": 2e-3,
        "warmup_steps": 0.1,
        "logging_steps": 5,
        "packing": {"max_tokens": 2048, "group": 1.0},
        "seed": 0,
    },
}


def story() -> None:
    """Make a database, train on some kinds of questions, ask others, and show what each part changed."""
    from rich.console import Console

    from deltatune.apps.sql.config import SqlConfig
    from deltatune.apps.sql.generate import generate
    from deltatune.apps.sql.measuring import question_groups
    from deltatune.apps.sql.opening import open_writer
    from deltatune.apps.sql.scoring.table import rich_table
    from deltatune.apps.sql.study import study
    from deltatune.apps.sql.system import open_sources, train_system

    console, start = Console(), time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    address = OUT / f"{DATABASE}.sqlite"
    address.unlink(missing_ok=True)
    rows = sum(generate(DATABASE, address, size="tiny").values())
    console.print(f"made {address}: {rows:,} rows of invented investment funds")
    config = SqlConfig.model_validate(
        {**SETTINGS, "databases": {DATABASE: str(address)}, "output": str(OUT / "system")}
    )
    run = train_system(config, overwrite=True, console=console)
    groups, _ = question_groups(config, databases={}, per_template=PER_TEMPLATE)
    with open_sources(config.databases) as sources, console.status("asking the untrained and the trained model"):
        report = study(
            open_writer(OUT / "system"), sources, groups, stages=("+ linking", "+ fine-tuning", "+ calibration")
        )
    report.save(OUT / "report.json")
    before, after = (report.stages[stage][GROUP] for stage in ("+ linking", "+ calibration"))
    _show(console, before, after, OUT / "system", address)
    console.print(rich_table(report))
    facts = {
        "right before": _share(each.executed_right for each in before),
        "right after": _share(each.executed_right for each in after),
        "it runs before": _share(each.valid for each in before),
        "it runs after": _share(each.valid for each in after),
        "delta on disk": f"{(run.final / 'adapter_model.safetensors').stat().st_size / 2**20:.1f} MiB",
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }
    (OUT / "demo.json").write_text(json.dumps(facts, indent=2) + "\n")
    console.print(f"{facts['minutes']} minutes; everything is in {OUT}. Ask it yourself:")
    console.print(f'  deltatune sql ask {address} "How many bond funds are there?" --system {OUT / "system"}')
    _check(report)


def _show(console: Console, before: Iterable[Outcome], after: Iterable[Outcome], system: Path, address: Path) -> None:
    """A question of a kind that was never trained on, asked again by the command line in a fresh process."""
    from rich.panel import Panel

    pairs = list(zip(before, after, strict=True))
    wrong, right = next((pair for pair in pairs if pair[1].executed_right and not pair[0].executed_right), pairs[0])
    question = wrong.example.question
    console.print(Panel(wrong.sql.strip(), title=f"before: {question}", subtitle=wrong.problem or "wrong rows"))
    command = [
        sys.executable,
        "-m",
        "deltatune",
        "sql",
        "ask",
        str(address),
        question,
        "--system",
        str(system),
        "--json",
    ]
    found = json.loads(subprocess.run(command, capture_output=True, check=False, text=True).stdout)
    lines = [found["sql"], *(f"mended: {each['before']} -> {each['after']}" for each in found["repairs"])]
    lines += [str(tuple(row)) for row in (found["rows"] or [])[:SHOWN_ROWS]]
    console.print(Panel("\n".join(lines), title=f"after: {question}"))
    if found["sql"] != right.sql:
        raise SystemExit(f"demo: a fresh process answers differently: {found['sql']}")


def _share(flags: Iterable[bool]) -> str:
    listed = list(flags)
    return f"{sum(listed) / len(listed):.0%}"


def _check(report: Report) -> None:
    if report.compared("+ calibration", "+ linking", GROUP).verdict != "better":
        raise SystemExit("demo: the trained system is not better than the untrained one")
