"""The picture of the README: what each method reaches on held-out data against how much it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt


def draw(figures: dict[str, dict[str, dict[str, str]]], file: Path) -> None:
    """Write the picture from the results of the methods' benchmark."""
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
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _number(cell: Any) -> float:
    return float(str(cell).split("±")[0].replace(",", ""))
