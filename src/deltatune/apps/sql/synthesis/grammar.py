"""The grammar: which constructs there are, and how often each is drawn.

A construct takes the lexicon of a database and a random generator, and returns a question and SQLite's SQL, or raises
`Impossible`. Its name is the function's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from deltatune.apps.sql.synthesis.constructs import arithmetic, change, groups, nested, plain, ranks, sets, windows
from deltatune.apps.sql.synthesis.lexicon import Lexicon

__all__ = ["CONSTRUCTS", "Construct"]

Construct: TypeAlias = Callable[[Lexicon, random.Random], tuple[str, str]]

# The number is how often a construct is drawn, against the others.
_WEIGHTS: tuple[tuple[Construct, int], ...] = (
    (plain.lookup, 10),
    (plain.value_on, 9),
    (plain.listing, 14),
    (plain.count, 8),
    (plain.different, 3),
    (plain.aggregate, 9),
    (plain.over_time, 3),
    (plain.related, 6),
    (groups.by_category, 20),
    (groups.by_subject, 14),
    (groups.by_time, 4),
    (ranks.top, 10),
    (ranks.extreme, 5),
    (ranks.most, 3),
    (arithmetic.ratio, 6),
    (arithmetic.total_ratio, 4),
    (arithmetic.mean_ratio, 3),
    (arithmetic.difference, 4),
    (arithmetic.compare, 3),
    (arithmetic.across, 4),
    (arithmetic.part_of_rows, 2),
    (change.change, 5),
    (nested.above_average, 5),
    (nested.without, 5),
    (nested.having_any, 4),
    (nested.latest, 5),
    (sets.both, 10),
    (windows.steps, 3),
    (windows.top_of_each, 3),
)
CONSTRUCTS: dict[str, tuple[Construct, int]] = {make.__name__: (make, weight) for make, weight in _WEIGHTS}
