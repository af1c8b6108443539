"""A trie of texts: each stretch of tokens that several texts begin with is one node.

A node stands for some tokens behind those of its parent. A text is the tokens from a root down to the node where it
ends, so texts that share nothing are a root each: plain packing is a trie without branches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Node", "alike", "build"]

Text = Sequence[int]


@dataclass(frozen=True, slots=True)
class Node:
    """A stretch of tokens at which every text below it agrees."""

    start: int
    """Its first row when the nodes are laid out one after the other, a node before its children."""
    length: int
    depth: int
    """How many tokens stand before it, which is the position of its first token."""
    parent: int | None
    """The number of its parent; ``None`` for a root."""
    texts: tuple[int, ...]
    """The texts that run through it, as numbers of the texts given."""

    @property
    def stop(self) -> int:
        """The row behind its last."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Texts that agree up to ``stop``, and whose tokens before ``start`` are in nodes already."""

    texts: list[int]
    start: int
    stop: int
    parent: int | None


def build(texts: Sequence[Text], *, least: int) -> list[Node]:
    """The nodes of the trie of ``texts``, a node before its children.

    Args:
        texts: token ids, each text at least one.
        least: how many tokens a stretch must have to be shared. A node costs a call of the attention function, so
            short stretches are cheaper run twice.
    """
    nodes: list[Node] = []
    waiting = [_Stretch(group, 0, 0, None) for group in reversed(_by_next_token(texts, range(len(texts)), 0))]
    while waiting:
        stretch = waiting.pop()
        stop = _agree_until(texts, stretch.texts, stretch.stop)
        alone = len(stretch.texts) == 1
        if not alone and stop - stretch.start < least and (rest := _branches(texts, stretch, stop)):
            waiting += reversed(rest)
            continue
        row = nodes[-1].stop if nodes else 0
        nodes.append(Node(row, stop - stretch.start, stretch.start, stretch.parent, tuple(stretch.texts)))
        below = [text for text in stretch.texts if len(texts[text]) > stop]
        groups = _by_next_token(texts, below, stop)
        waiting += [_Stretch(group, stop, stop, len(nodes) - 1) for group in reversed(groups)]
    return nodes


def _branches(texts: Sequence[Text], stretch: _Stretch, at: int) -> list[_Stretch]:
    """The texts of a stretch that is too short to share, by how they go on; those that end there stay whole."""
    over = [text for text in stretch.texts if len(texts[text]) == at]
    on = _by_next_token(texts, [text for text in stretch.texts if len(texts[text]) > at], at)
    parts = [*([over] if over else []), *on]
    return [_Stretch(part, stretch.start, at, stretch.parent) for part in parts] if len(parts) > 1 else []


def _by_next_token(texts: Sequence[Text], chosen: Iterator[int] | Sequence[int], at: int) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for text in chosen:
        groups.setdefault(texts[text][at], []).append(text)
    return list(groups.values())


def _agree_until(texts: Sequence[Text], chosen: Sequence[int], known: int) -> int:
    """How many first tokens the chosen texts have in common, ``known`` of them at least."""
    first, *others = (texts[text] for text in chosen)
    until = min(len(texts[text]) for text in chosen)
    for other in others:
        until = next((at for at in range(known, until) if other[at] != first[at]), until)
    return until


def alike(a: Text, b: Text) -> int:
    """How many first tokens two texts have in common."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
