"""The tables of a report, for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deltatune.apps.sql.scoring.report import Report
from deltatune.apps.sql.scoring.share import Paired, Share
from deltatune.markdown import table_lines

__all__ = ["markdown", "remarks", "rich_by_difficulty", "rich_table"]

HEADS = ("questions", "stage", "execution accuracy", "to the stage before", "exact set", "valid")


def markdown(report: Report) -> str:
    """The setting, the table, execution accuracy by difficulty, and what the differences are worth."""
    parts = [
        [f"- {name}: {value}" for name, value in report.about.items()],
        table_lines(HEADS, _rows(report), left=2),
        ["Execution accuracy by difficulty:"],
        table_lines(*_by_difficulty(report), left=2),
        [f"- {line}" for line in remarks(report)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def rich_table(report: Report) -> Table:
    """The table for a terminal, one section for each group of questions."""
    return _rich(HEADS, _rows(report))


def rich_by_difficulty(report: Report) -> Table:
    """Right answers by difficulty for a terminal, one section for each group of questions."""
    return _rich(*_by_difficulty(report))


def remarks(report: Report) -> list[str]:
    """What there is to know of the table, a line each. A stage is called better only where the test says so."""
    lines = [
        "execution accuracy with its 95 % interval (Wilson); a stage against another: McNemar's exact test on the same "
        "questions, 5 %, each test by itself",
        "questions from one template are right or wrong together, so the true intervals are wider",
    ]
    for before, stage in report.steps:
        for group in report.groups:
            found = report.compared(stage, before, group)
            lines.append(
                f"{group}: {stage} against {before}: {found.verdict} ({found.gained} gained, {found.lost} lost of "
                f"{found.total}, p = {found.p_value:.2g})"
            )
    return lines


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    for group in report.groups:
        before: str | None = None
        for stage in report.stages:
            found = report.scores(stage, group)
            change = "–" if before is None else _change(report.compared(stage, before, group))
            shares = found.exact_set, found.valid
            yield group, stage, _interval(found.execution), change, *(f"{each.value:.1%}" for each in shares)
            before = stage


def _by_difficulty(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    found = {(group, stage): report.by_difficulty(stage, group) for stage in report.stages for group in report.groups}
    kinds = list(dict.fromkeys(kind for each in found.values() for kind in each))
    rows = []
    for group in report.groups:
        for stage in report.stages:
            counts = [found[group, stage][kind].execution if kind in found[group, stage] else None for kind in kinds]
            rows.append((group, stage, *("–" if each is None else f"{each.right} of {each.total}" for each in counts)))
    return ("questions", "stage", *kinds), rows


def _rich(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 2 else "right")
    group = ""
    for row in rows:
        if group and row[0] != group:
            table.add_section()
        table.add_row(*(Text(cell) for cell in ("" if row[0] == group else row[0], *row[1:])))
        group = row[0]
    return table


def _interval(found: Share) -> str:
    return f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _change(found: Paired) -> str:
    close = " ≈" if found.verdict == "not told apart" else ""
    return f"{100 * found.difference:+.1f}{close}"
