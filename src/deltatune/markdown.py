"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["table_lines"]


def table_lines(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """A table, a line each.

    Args:
        heads: of the columns.
        rows: their cells.
        left: how many of the first columns are aligned to the left; the others are to the right. Default: 1.
    """
    marks = ["---" if place < left else "---:" for place in range(len(heads))]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in (heads, marks, *rows))
    return [f"| {' | '.join(row)} |" for row in cells]
