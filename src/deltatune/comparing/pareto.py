"""Which methods nothing beats in both quality and memory, and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltatune.comparing.results import Comparison, Row

__all__ = ["draw", "front"]

DPI = 120


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[int]:
    """The points that no other beats: less of the first and better in the second, or equal in one of them.

    Args:
        points: a cost and a quality each.
        higher: whether more quality is better.

    Returns:
        Their numbers, the cheapest first.
    """
    sign = 1 if higher else -1
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1]))
    kept: list[int] = []
    for i in order:
        if not kept or sign * points[i][1] > sign * points[kept[-1]][1]:
            kept.append(i)
    return kept


def draw(found: Comparison, file: Path) -> None:
    """Draw quality against peak memory, with the front.

    Args:
        found: the comparison.
        file: where to write the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=DPI, layout="constrained")  # pyplot would keep it, and may want a display
    axes = figure.subplots()
    rows = [row for row in found.rows if found.quality(row) and row.memory_bytes]
    points = [(row.memory_bytes / 1e6, _scaled(found, row)[0]) for row in rows if row.memory_bytes]
    kept = front(points, higher=found.higher_is_better)
    axes.step(
        [points[i][0] for i in kept], [points[i][1] for i in kept], where="post", color="0.6", linestyle="--", zorder=1
    )
    for number, (row, (x, y)) in enumerate(zip(rows, points, strict=True)):
        color = f"C{number % 10}"
        marker = "o" if number in kept else "s"
        axes.errorbar(x, y, yerr=_bars(found, row), color=color, marker=marker, capsize=3, zorder=2)
    percent = " %" if _is_share(found) else ""
    way = "higher" if found.higher_is_better else "lower"
    axes.set(
        xlabel="peak memory of training, MB",
        ylabel=f"{found.metric.replace('_', ' ')}{percent} ({way} is better)",
        title=f"{found.about['base']}: quality × memory; the dashed line is the Pareto front",
    )
    if not found.higher_is_better:
        axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # so that places in the picture are known
    _name(axes, [row.label for row in rows], points)
    canvas.print_figure(file, dpi=DPI)


def _name(axes: Any, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Write a name beside each point, where it is on no other point or name if there is such a place."""
    places = [tuple(axes.transData.transform(point)) for point in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for name, point, (x, y) in zip(names, points, places, strict=True):
        wide, high = 7 * len(name), 12
        beside = [(8, 6), (8, -17), (-8 - wide, 6), (-8 - wide, -17)]
        offsets = [*beside, *((dx, dy + 15 if dy > 0 else dy - 15) for dx, dy in beside)]
        boxes = [(x + dx, y + dy, x + dx + wide, y + dy + high) for dx, dy in offsets]
        free = (number for number, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken))
        number = next(free, 0)
        taken.append(boxes[number])
        axes.annotate(name, point, xytext=offsets[number], textcoords="offset pixels", fontsize=8)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _bars(found: Comparison, row: Row) -> list[list[float]] | None:
    """How far the interval reaches below and above the point; of a share, within 0 and 100 %."""
    mean, half = _scaled(found, row)
    if half is None:
        return None
    return [[min(half, mean)], [min(half, 100 - mean)]] if _is_share(found) else [[half], [half]]


def _is_share(found: Comparison) -> bool:
    return "accuracy" in found.metric or found.metric == "macro_f1"


def _scaled(found: Comparison, row: Row) -> tuple[float, float | None]:
    """The quality and half its interval, as drawn."""
    score = found.quality(row)
    assert score is not None
    scale = 100 if _is_share(found) else 1
    return scale * score.mean, None if score.half is None else scale * score.half
