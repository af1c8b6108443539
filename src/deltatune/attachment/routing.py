"""Which deltas act, and on which rows of a batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from deltatune.attachment.part import Part
from deltatune.errors import AttachError

__all__ = ["EVERYTHING", "NOTHING", "Routing"]


@dataclass(frozen=True)
class Routing:
    """An immutable answer to "which rows does this delta act on?".

    ``rows`` is ``None`` when every row takes every enabled delta; otherwise it holds, row by row, the names of the
    deltas that act on it.
    """

    rows: tuple[frozenset[str], ...] | None = None
    nothing: bool = False
    without: frozenset[str] = frozenset()
    """Deltas that act on no row, whatever else is said."""

    @classmethod
    def of(cls, routes: Iterable[str | Iterable[str] | None]) -> Routing:
        """From what a user writes: a name, several names or ``None`` for each row."""
        return cls(tuple(frozenset([r] if isinstance(r, str) else r or ()) for r in routes))

    @property
    def names(self) -> frozenset[str]:
        """Every delta that acts on some row."""
        return frozenset().union(*(self.rows or ()))

    def groups(self, name: str, length: int, hidden: frozenset[str]) -> list[tuple[tuple[int, ...] | None, Routing]]:
        """The rows that delta ``name`` acts on, put together by what else acts on them.

        Returns:
            For each group its rows and the routing of a batch of one such row, without the deltas ``hidden``.
        """
        taken = self.indices(name, length)
        hidden |= self.without
        if self.rows is None or taken == ():
            return [] if taken == () else [(None, Routing(without=hidden))]
        repeat = length // len(self.rows)
        groups: dict[frozenset[str], list[int]] = {}
        for row in range(length) if taken is None else taken:
            groups.setdefault(self.rows[row // repeat] - hidden, []).append(row)
        return [(tuple(rows) if len(rows) < length else None, Routing((names,))) for names, rows in groups.items()]

    def indices(self, name: str, length: int) -> tuple[int, ...] | None:
        """The rows of a batch of ``length`` that delta ``name`` acts on; ``None`` means all of them.

        Beam search and sampling repeat each row in place, and some layers see rows and tokens flattened into one
        dimension: a batch that is k times as long holds each row k times in a row.

        Raises:
            AttachError: the batch is no multiple of the routes.
        """
        if self.nothing or name in self.without:
            return ()
        if self.rows is None:
            return None
        # The compiler traces what is called and warns of a cache that it passes over.
        find = _indices.__wrapped__ if torch.compiler.is_compiling() else _indices
        return find(self.rows, name, length)


@lru_cache(maxsize=512)
def _indices(rows: tuple[frozenset[str], ...], name: str, length: int) -> tuple[int, ...] | None:
    repeat, rest = divmod(length, len(rows)) if rows else (0, length)
    if rest or not repeat:
        raise AttachError(
            f"routed: expected a batch of {len(rows)} rows or a multiple, found {length}; give a route a row"
        )
    chosen = tuple(i for i in range(length) if name in rows[i // repeat])
    return None if len(chosen) == length else chosen


EVERYTHING = Routing()
NOTHING = Routing(nothing=True)


def apply_to_rows(part: Part, x: Tensor, out: Tensor, rows: tuple[int, ...] | None, answer: Tensor) -> Tensor:
    """``part`` on the given rows of the batch; the others keep ``out``.

    Args:
        part: the part.
        x: the site's input.
        out: its output so far.
        rows: ``None`` for all.
        answer: what the base alone answers; ``out`` itself if no other part has acted.
    """
    if part.answers_anew and out is not answer:
        return out if rows == () else out + (apply_to_rows(part, x, answer, rows, answer) - answer)
    if rows is None:
        return part(x, out)  # type: ignore[no-any-return]
    if not rows:
        return out
    index = torch.tensor(rows, device=out.device)
    taken = out.index_select(0, index)
    changed = part(x.index_select(0, index.to(x.device)), taken)
    return out if changed is taken else out.index_copy(0, index, changed.to(out.dtype))


def before_rows(part: Part, x: Tensor, rows: tuple[int, ...] | None) -> Tensor:
    """The input as ``part`` wants it on the given rows; the others keep ``x``."""
    if rows is None:
        return part.before(x)
    if not rows:
        return x
    index = torch.tensor(rows, device=x.device)
    return x.index_copy(0, index, part.before(x.index_select(0, index)).to(x.dtype))
