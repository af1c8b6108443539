"""The loss curve of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deltatune.io.atomic import atomic_files

__all__ = ["can_plot", "plot_loss"]


def can_plot() -> bool:
    """Whether matplotlib is there (`pip install "deltatune[plot]"`)."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_loss(log: Sequence[Mapping[str, Any]], file: Path, title: str = "") -> None:
    """Draw the training and the evaluation loss over the steps of a run.

    Args:
        log: the entries of the run's log.
        file: where to write the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")  # pyplot would keep it, and may want a display
    axes = figure.subplots()
    for key, label, mark in (("loss", "training", ""), ("eval_loss", "evaluation", "o")):
        points = [(entry["step"], entry[key]) for entry in log if entry.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=mark or ("." if len(points) == 1 else ""))
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    with atomic_files(file.parent) as scratch:
        FigureCanvasAgg(figure).print_figure(scratch / file.name, dpi=120)
