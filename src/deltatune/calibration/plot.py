"""The reliability of a model as a picture, before and after calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deltatune.calibration.reliability import Reliability
from deltatune.io.atomic import atomic_files

__all__ = ["plot_reliability"]


def plot_reliability(found: Mapping[str, Reliability], file: Path, title: str = "") -> None:
    """Draw accuracy over confidence, one panel for each, with how many examples each bin has.

    Args:
        found: by name, such as ``before`` and ``after``.
        file: where to write the picture.
        title: above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found), 4.6), layout="constrained")
    panels = figure.subplots(2, len(found), sharex=True, squeeze=False, height_ratios=(3, 1))
    for (name, each), above, below in zip(found.items(), *panels, strict=True):
        bins = [one for one in each.bins if one.count]
        width = each.bins[0].high - each.bins[0].low
        left = [one.low for one in bins]
        above.bar(left, [one.accuracy for one in bins], width, align="edge", color="tab:blue", edgecolor="white")
        above.plot([one.confidence for one in bins], [one.accuracy for one in bins], "o", color="tab:orange", ms=4)
        above.plot([0, 1], [0, 1], "--", color="gray", lw=1)
        above.set(title=f"{name}: error {each.expected_error:.1%}", ylim=(0, 1), xlim=(0, 1), ylabel="share right")
        below.bar(left, [one.count for one in bins], width, align="edge", color="lightgray", edgecolor="white")
        below.set(xlabel="confidence", ylabel="examples")
    if title:
        figure.suptitle(title)
    with atomic_files(file.parent) as scratch:
        FigureCanvasAgg(figure).print_figure(scratch / file.name, dpi=120)
