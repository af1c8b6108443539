"""An ablation as a picture."""

from __future__ import annotations

from pathlib import Path

from deltatune.apps.sql.scoring.report import Report
from deltatune.io.atomic import atomic_files

__all__ = ["plot_report"]

LONG = 20
"""Letters of a stage's name up to which it stands level."""


def plot_report(report: Report, file: Path, title: str = "") -> None:
    """Draw execution accuracy by stage, a bar for each group of questions, with its 95 % interval.

    Args:
        report: the ablation.
        file: where to write the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages, groups = list(report.stages), report.groups
    figure = Figure(figsize=(max(6.0, 1.6 * len(stages)), 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(groups)
    for number, group in enumerate(groups):
        places = [stage - 0.4 + (number + 0.5) * width for stage in range(len(stages))]
        shares = [report.scores(stage, group).execution for stage in stages]
        values = [100 * each.value for each in shares]
        below = [value - 100 * each.low for value, each in zip(values, shares, strict=True)]
        above = [100 * each.high - value for value, each in zip(values, shares, strict=True)]
        label = f"{group} ({shares[0].total} questions)"
        axes.bar(places, values, width, yerr=(below, above), capsize=3, color=f"C{number}", label=label, edgecolor="w")
    axes.set(xticks=range(len(stages)), ylabel="execution accuracy, %", ylim=(0, 100))
    if max(map(len, stages)) > LONG:
        axes.set_xticklabels(stages, rotation=25, ha="right")
    else:
        axes.set_xticklabels(stages)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(groups))
    if title:
        axes.set_title(title)
    with atomic_files(file.parent) as scratch:
        FigureCanvasAgg(figure).print_figure(scratch / file.name, dpi=120)
