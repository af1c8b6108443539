"""The pictures of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt


def draw_methods(figures: dict[str, dict[str, dict[str, Any]]], file: Path) -> None:
    """What each method reaches on held-out data against how much it trains, from the methods' benchmark."""
    panels = {
        "minilm": ("MiniLM-L6, six classes: accuracy %", "accuracy %"),
        "smollm2": ("SmolLM2-135M, JSON records: held-out loss", "loss"),
    }
    panels = {task: panel for task, panel in panels.items() if task in figures}
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.5 * len(panels), 4.2), constrained_layout=True, squeeze=False
    )
    for axis, (task, (title, score)) in zip(axes[0], panels.items(), strict=True):
        rows = {name: row for name, row in figures[task].items() if name != "base"}
        for name, row in rows.items():
            x, y = _number(row["trained %"]), _number(row[score])
            axis.scatter(x, y, s=28)
            axis.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        base = _number(figures[task]["base"][score])
        axis.axhline(base, color="grey", linewidth=1, linestyle="--")
        axis.annotate("frozen base", (axis.get_xlim()[0], base), fontsize=8, color="grey", va="bottom")
        axis.set(xscale="log", xlabel="trained, % of the base", title=title)
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_training(figures: dict[str, dict[str, dict[str, Any]]], file: Path) -> None:
    """Speed and memory of each side in each case, from the training benchmark."""
    sides = list(dict.fromkeys(side for rows in figures.values() for side in rows))
    bars = [(case, side) for case, rows in figures.items() for side in rows]
    cases = list(figures)
    places = [place + cases.index(case) for place, (case, _) in enumerate(bars)]  # a gap between cases
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.2 * places[-1] + 1.5), constrained_layout=True, sharey=True)
    for axis, column in zip(axes, ("tokens/s", "peak MiB"), strict=True):
        for place, (case, side) in zip(places, bars, strict=True):
            value = figures[case][side][column]
            axis.barh(place, value, color=f"C{sides.index(side)}")
            axis.annotate(f" {value:,.0f}", (value, place), fontsize=7, va="center")
        axis.set(title=column)
        axis.margins(x=0.1, y=0.01)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(places, [f"{case}: {side}" for case, side in bars], fontsize=7)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _number(cell: Any) -> float:
    return float(str(cell).split("±")[0].replace(",", ""))
