"""The table of a comparison, for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from deltatune.comparing.interval import Interval
from deltatune.comparing.results import Comparison, Row
from deltatune.markdown import table_lines
from deltatune.sizes import size_text

__all__ = ["is_close", "markdown", "remarks", "rich_table", "score_text", "setting"]


@dataclass(frozen=True)
class Column:
    """A column: its head, and a row's cell."""

    head: str
    cell: Callable[[Row], str]


def columns(found: Comparison) -> list[Column]:
    """The columns of the table in Markdown."""
    arrow = "↑" if found.higher_is_better else "↓"

    def quality(row: Row) -> str:
        score = found.quality(row)
        return "–" if score is None else score_text(score, found.metric) + (" ≈" if is_close(row) else "")

    return [
        Column("method", lambda row: row.label),
        Column(f"{found.metric.replace('_', ' ')} {arrow}", quality),
        Column("learning rate", lambda row: _or_dash(row.learning_rate, lambda rate: f"{rate:g}")),
        Column("trainable", lambda row: _or_dash(row.trainable_parameters, lambda count: f"{count:,}")),
        Column("of base", lambda row: _or_dash(row.share, lambda share: f"{share:.2%}")),
        Column("peak memory", lambda row: _or_dash(row.memory_bytes, size_text)),
        Column("time", lambda row: _or_dash(row.seconds, lambda seconds: f"{seconds:.1f} s")),
        Column("file", lambda row: _or_dash(row.file_bytes, size_text)),
        Column("forward pass", _overhead),
        Column("merges", lambda row: _or_dash(row.overhead, lambda _: "no" if row.merge else "yes")),
    ]


def markdown(found: Comparison) -> str:
    """The table, the best row first, and what there is to know of it, in Markdown."""
    shown = columns(found)
    rows = ([column.cell(row) for column in shown] for row in found.ranked())
    lines = table_lines([column.head for column in shown], rows)
    return "\n".join([*lines, "", *(f"- {line}" for line in [*setting(found), *remarks(found)]), ""])


def rich_table(found: Comparison, width: int = 200) -> Table:
    """The same for a terminal that is so many characters wide: what does not fit is left out."""
    short = {"learning rate": "lr", "of base": "trains", "peak memory": "memory", "forward pass": "forward"}
    shown = [column for column in columns(found) if column.head != "trainable"]

    def wide(column: Column) -> int:
        cells = (len(column.cell(row)) for row in found.rows)
        return 3 + max(len(short.get(column.head, column.head)), *cells)

    for name in ("merges", "file", "learning rate", "forward pass", "time"):
        if min(wide(shown[0]), _NAME) + sum(map(wide, shown[1:])) <= width:
            break
        shown = [column for column in shown if column.head != name]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(shown[0].head, no_wrap=True, max_width=_NAME)
    for column in shown[1:]:
        table.add_column(short.get(column.head, column.head), justify="right", no_wrap=True)
    best = found.best()
    for row in found.ranked():
        style = "bold green" if row is best else "red" if row.failure else ""
        table.add_row(*(Text(column.cell(row)) for column in shown), style=style)
    return table


def setting(found: Comparison) -> list[str]:
    """What all rows have in common, a line each."""
    return [f"{name}: {value}" for name, value in found.about.items() if value and name != "idle_bytes"]


def remarks(found: Comparison) -> list[str]:
    """What there is to know of the table, a line each."""
    count = len(found.seeds)
    seeds = f"{count} seeds ({', '.join(map(str, found.seeds))})" if count > 1 else f"one seed ({found.seeds[0]})"
    spread = "mean ± half of the 95 % interval (Student's t)" if count > 1 else "a single value, so without an interval"
    lines = [f"{found.metric.replace('_', ' ')} at the end of training, {seeds}: {spread}"]
    if any(map(is_close, found.rows)):
        lines.append("≈: not told apart from the best row, seed by seed, at 95 %")
    if found.about.get("idle_bytes"):
        idle = size_text(found.about["idle_bytes"])
        lines.append(f"peak memory is the whole process's; {idle} of it are Python and its libraries")
    lines.append("forward pass: time with the delta over that without it; one that merges costs nothing afterwards")
    lines += found.notes
    lines += [f"{row.label}: {note}" for row in found.rows for note in row.notes]
    lines += [f"{row.label}: failed: {row.failure}" for row in found.failed]
    return lines


def score_text(score: Interval, metric: str) -> str:
    """A mean with its interval: shares in percent, the rest as it is."""
    percent = metric in _SHARES
    scale, digits = (100, 1) if percent else (1, 3)
    half = "" if score.half is None else f" ± {scale * score.half:.{digits}f}"
    return f"{scale * score.mean:.{digits}f}{half}" + (" %" if percent else "")


def is_close(row: Row) -> bool:
    """Whether a row can not be told from the best: the interval of the differences, seed by seed, has zero in it."""
    return row.behind is not None and row.behind.half is not None and row.behind.low <= 0


_NAME = 24
"""Characters that a terminal has for a name."""

_SHARES = ("accuracy", "macro_f1", "token_accuracy")


def _overhead(row: Row) -> str:
    return _or_dash(row.overhead, lambda ratio: f"× {ratio:.2f}")


def _or_dash(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None else text(value)
