"""The story of the demo: a question in; wrong SQL before, right rows after.

A database of investment funds is made; SmolLM2-135M learns from questions that are synthesised from the database and
made from templates; and it is asked others, without what it learned and with it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from deltatune.apps.sql.config import SqlConfig
    from deltatune.apps.sql.examples import Example
    from deltatune.apps.sql.scoring.report import Report
    from deltatune.apps.sql.scoring.scores import Outcome
    from deltatune.apps.sql.source import Source

__all__ = ["story"]

OUT = Path("runs/demo")
NEW = "new questions"
ASKED = 24
"""Questions of each group."""
BEFORE, AFTER = "+ linking", "+ calibration"
"""The model alone, told the same as later; and with its delta, and what it wrote mended."""
STAGES = (BEFORE, AFTER)
SETTINGS: dict[str, Any] = {
    "base": {"model": "smollm2", "dtype": "float32"},
    "delta": {"method": "lora", "r": 16, "targets": "all_linear"},
    "questions": {"templates": 4, "synthetic": 340, "hardest": "medium"},
    "prompt": {"names": "meaning", "joins": False, "samples": 0, "tables": 2, "columns": 6, "share": 16},
    "linker": None,
    "train": {
        "epochs": 1,
        "learning_rate": 2e-3,
        "warmup_steps": 0.1,
        "packing": {"max_tokens": 800, "group": 1.0},
        "logging_steps": 5,
        "seed": 0,
    },
}
HELD_OUT_SEED = 7


def story() -> None:
    """Make the database, train, ask before and after, and show what came of it.

    Raises:
        SystemExit: the trained model is not better than the untrained one, or a fresh process answers otherwise.
    """
    from rich.console import Console

    from deltatune.apps.sql.config import SqlConfig
    from deltatune.apps.sql.generate import generate
    from deltatune.apps.sql.source import open_source
    from deltatune.apps.sql.system import train_system

    console, start = Console(), time.perf_counter()
    OUT.mkdir(parents=True, exist_ok=True)
    database = OUT / "funds.sqlite"
    database.unlink(missing_ok=True)
    rows = sum(generate("funds", database, size="tiny").values())
    console.print(f"a database of investment funds: 13 tables, {rows:,} rows, in {database}")
    config = SqlConfig.model_validate({**SETTINGS, "databases": {"funds": str(database)}, "output": str(OUT / "sql")})
    with open_source(database) as source:
        groups = held_out(config, source)
        train_system(config, overwrite=True, console=console)
        report = _asked(config, source, groups, console)
    report.save(OUT / "report.json")
    before, after = _telling(report)
    fresh = _ask_elsewhere(database, after.example.question)
    _show(console, report, before, fresh)
    console.print(f"{(time.perf_counter() - start) / 60:.1f} minutes; everything is in {OUT}")
    if fresh.get("sql") != after.sql:
        raise SystemExit("demo: a fresh process answers otherwise")
    if report.compared(AFTER, BEFORE, NEW).verdict != "better":
        raise SystemExit(f"demo: on {NEW} the trained model is not told apart from the untrained one")


def held_out(config: SqlConfig, source: Source) -> dict[str, list[Example]]:
    """Questions that are not among what is learned: of the kinds that are, and of templates that are not."""
    from deltatune.apps.sql.gather import gather
    from deltatune.apps.sql.questions import questions
    from deltatune.apps.sql.questions.difficulty import no_harder
    from deltatune.apps.sql.split import split_templates
    from deltatune.apps.sql.synthesis import synthesize

    spec, reader = config.questions, source.reader
    learned = {example.sql for example in gather(spec, {"funds": source})}
    made = synthesize(reader, count=2 * ASKED, seed=HELD_OUT_SEED, hardest=spec.hardest)
    unseen = [
        template
        for template in (*split_templates("dev"), *split_templates("test"))
        if template.database == "funds" and no_harder(template.difficulty, spec.hardest)
    ]
    groups = {
        NEW: [example for example in made if example.sql not in learned],
        "unseen templates": questions(reader, unseen, per_template=ASKED, seed=HELD_OUT_SEED),
    }
    return {
        name: random.Random(HELD_OUT_SEED).sample(examples, min(ASKED, len(examples)))
        for name, examples in groups.items()
    }


def _asked(config: SqlConfig, source: Source, groups: Mapping[str, Sequence[Example]], console: Console) -> Report:
    from deltatune.apps.sql.opening import open_writer
    from deltatune.apps.sql.study import study

    writer = open_writer(config.output)
    writer.max_new_tokens = 96
    with console.status(f"asking {sum(map(len, groups.values()))} questions, before and after"):
        return study(writer, {"funds": source}, groups, stages=STAGES, about={"base": config.base.model})


def _telling(report: Report) -> tuple[Outcome, Outcome]:
    """A question to show, before and after: of those that the training has put right the one with the longest SQL."""
    pairs = [
        pair
        for group in report.groups
        for pair in zip(report.stages[BEFORE][group], report.stages[AFTER][group], strict=True)
    ]
    gained = [(before, after) for before, after in pairs if after.executed_right and not before.executed_right]
    return max(gained or pairs, key=lambda pair: len(pair[1].sql))


def _ask_elsewhere(database: Path, question: str) -> dict[str, Any]:
    """What a fresh process answers that loads the delta."""
    command = [sys.executable, "-m", "deltatune", "sql", "ask", str(database), question]
    asked = subprocess.run([*command, "--system", str(OUT / "sql"), "--json"], capture_output=True, text=True)
    found: dict[str, Any] = json.loads(asked.stdout or "{}")
    return found


def _show(console: Console, report: Report, before: Outcome, fresh: Mapping[str, Any]) -> None:
    from rich.table import Table

    from deltatune.apps.sql.scoring.table import remarks, rich_table

    console.print(rich_table(report))
    for line in remarks(report):
        console.print(line, style="dim", markup=False)
    table = Table(title="A question that it has never seen", show_header=False, show_lines=True)
    table.add_row("question", before.example.question)
    table.add_row("before", f"{before.sql.strip()}\n({before.problem or 'it runs, and its rows are wrong'})")
    table.add_row("after", fresh.get("sql", ""))
    table.add_row("rows", "\n".join(_lines(fresh.get("rows") or ())))
    console.print(table)


def _lines(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    for row in rows[:5]:
        yield ", ".join(map(str, row))
    if len(rows) > 5:
        yield f"and {len(rows) - 5} more"
