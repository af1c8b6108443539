"""A report as files that people read."""

from __future__ import annotations

from pathlib import Path

from deltatune.apps.sql.scoring.report import Report
from deltatune.apps.sql.scoring.table import markdown
from deltatune.io.atomic import atomic_files
from deltatune.train.plot import can_plot

__all__ = ["write_report"]


def write_report(report: Report, folder: Path, name: str) -> None:
    """Write its tables as Markdown and, where plots can be drawn, its picture.

    Args:
        report: what was measured.
        folder: where to; it is made.
        name: of both files, without an ending.
    """
    with atomic_files(folder) as scratch:
        (scratch / f"{name}.md").write_text(markdown(report), encoding="utf-8")
    if can_plot():
        from deltatune.apps.sql.scoring.plot import plot_report

        plot_report(report, folder / f"{name}.png")
