"""An evaluation as a picture: AUC over the number of shots."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from deltatune.apps.tab.report import TabReport, shots_text
from deltatune.io.atomic import atomic_files

__all__ = ["plot_report"]

COLUMNS = 3
MARKS = "osD^vP*X"


def plot_report(report: TabReport, file: Path, title: str = "") -> None:
    """Draw a panel for each data set: the mean AUC of each model over the rows learned from, ± a standard deviation.

    Args:
        report: the evaluation.
        file: where to write the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, math.ceil(math.sqrt(len(report.data))))
    lines = math.ceil(len(report.data) / columns)
    figure = Figure(figsize=(1 + 4.2 * columns, 1.2 + 3.2 * lines), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharey=True).flat)
    for axes in panels[len(report.data) :]:
        axes.remove()
    shown: dict[str, Any] = {}
    for axes, data in zip(panels, report.data, strict=False):
        shown |= _draw(axes, report, data)
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(title)
    with atomic_files(file.parent) as scratch:
        FigureCanvasAgg(figure).print_figure(scratch / file.name, dpi=120)


def _draw(axes: Any, report: TabReport, data: str) -> dict[str, Any]:
    """One panel; the line of each model."""
    shown: dict[str, Any] = {}
    ticks: dict[float, str] = {}
    for number, model in enumerate(report.models):
        scores = {shots: score for shots in report.shots if (score := report.score(data, model, shots))}
        if not scores:
            continue
        places = [score.rows for score in scores.values()]
        means = [100 * score.mean for score in scores.values()]
        spreads = [100 * (score.deviation or 0.0) for score in scores.values()]
        low, high = zip(*((mean - s, mean + s) for mean, s in zip(means, spreads, strict=True)), strict=True)
        color = f"C{number}"
        style = "--" if model in report.baselines else "-"
        [shown[model]] = axes.plot(places, means, style, marker=MARKS[number % len(MARKS)], markersize=4, color=color)
        axes.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
        ticks |= dict(zip(places, map(shots_text, scores), strict=True))
    axes.axhline(50, color="0.6", linewidth=0.8, linestyle=":")
    if 0 in ticks:  # a logarithm, but for the way from 0 to the fewest shots, which is as long as a doubling
        axes.set_xscale(
            "symlog", base=2, linscale=0.5, linthresh=min((place for place in ticks if place > 0), default=1)
        )
    else:
        axes.set_xscale("log", base=2)
    axes.set(title=data, xlabel="shots", ylabel="AUC × 100")
    axes.margins(x=0.08)
    axes.set_xticks(list(ticks), labels=list(ticks.values()), minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    return shown
