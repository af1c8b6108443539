"""The name that was most likely meant by one that does not exist."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from rapidfuzz import fuzz
from rapidfuzz.distance import OSA, JaroWinkler

__all__ = ["close", "nearest", "nearest_meaning"]

CLOSE = 0.6  # of the letters: two of six may differ, one of three
MEANT = 80  # of 100, how alike the words of a name and of a comment have to be
PART = 90  # of 100, where a comment has all words of a name, and more
ARTICLES = {"a", "an", "the"}


def close(name: str, other: str) -> float:
    """How alike two names are, from 0 to 1, without regard to case and underscores.

    Edits are counted with swapped neighbours as one. A name of which only the prefix or the end is missing (`nav` for
    `mf_nav` or `nav_dt`) is nearly the same.
    """
    return _close(name.casefold()[:100], other.casefold()[:100])


@lru_cache(maxsize=65_536)
def _close(name: str, other: str) -> float:
    one, two = name.replace("_", ""), other.replace("_", "")
    if one == two:
        return 1.0
    alike = OSA.normalized_similarity(one, two)
    if len(one) > 2 and other.endswith("_" + name):
        return max(alike, 0.95)
    if len(one) > 2 and other.startswith(name + "_"):
        return max(alike, 0.9)
    return alike + JaroWinkler.similarity(one, two) / 1000  # so that of equal ones the one with the same start wins


def nearest(name: str, names: Iterable[str], bound: float = CLOSE) -> str | None:
    """The most similar of the names, ``None`` if none comes up to the bound (0 to 1)."""
    best = max(names, key=lambda other: close(name, other), default=None)
    return best if best is not None and close(name, best) >= bound else None


def nearest_meaning(name: str, comments: Mapping[str, str], bound: float = MEANT) -> str | None:
    """The one whose comment says what the name does, ``None`` if none or several do.

    `management_fee` is said of `mgt_fee`, and `revenue`, where nothing else is called so, of what is operating revenue.

    Args:
        name: in words.
        comments: by the names to choose from.
        bound: how alike name and comment have to be, of 100.
    """
    words = _words(name)
    if len(words) < 4:
        return None
    scores = {other: _said(words, _words(re.split("[,:(]", text)[0])) for other, text in comments.items()}
    best = sorted(scores, key=lambda other: -scores[other])[:2]
    if not best or scores[best[0]] < bound or (len(best) > 1 and scores[best[0]] == scores[best[1]]):
        return None
    return best[0]


def _said(name: str, comment: str) -> float:
    """How much of a name's words a comment has, of 100."""
    alike = fuzz.token_sort_ratio(name, comment)
    return max(alike, PART) if set(name.split()) <= set(comment.split()) else alike


def _words(name: str) -> str:
    """`ManagementFee` and `management_fee` as `management fee`; articles do not count."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name[:200]).lower())
    return " ".join(word for word in words if word not in ARTICLES)
