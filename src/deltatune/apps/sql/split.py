"""Which templates are for training: no template of the test, and nothing of one whole database, is ever trained on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from deltatune.apps.sql.questions import TEMPLATES, Template
from deltatune.apps.sql.questions.difficulty import DIFFICULTIES
from deltatune.errors import ConfigError

__all__ = ["SPLITS", "split_templates"]

SPLITS = ("train", "dev", "test")
EVERY = 6  # of this many templates of one difficulty, one is for dev and one for the test


def split_templates(
    split: str, *, templates: Sequence[Template] = TEMPLATES, unseen: str = "macro", seed: int = 0
) -> tuple[Template, ...]:
    """The templates of a split. Together the splits hold each template once.

    Args:
        split: "train", "dev" or "test".
        templates: all there are.
        unseen: the database whose templates are all for the test.
        seed: which templates of the other databases are held out.

    Raises:
        ConfigError: the split or the database is unknown.
    """
    databases = sorted({template.database for template in templates})
    for name, value, known in (("split", split, SPLITS), ("unseen", unseen, databases)):
        if value not in known:
            raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {value!r}; choose one of them")
    chosen = {template.name for template in templates if template.database == unseen and split == "test"}
    groups: dict[str, list[Template]] = defaultdict(list)
    for template in templates:
        if template.database != unseen:
            groups[template.database].append(template)
    for group in groups.values():
        # Within a difficulty by chance, then dealt out in turn: each split gets its share of each difficulty.
        group.sort(key=lambda t: (DIFFICULTIES.index(t.difficulty), _chance(t.name, seed)))
        for i, template in enumerate(group):
            if split == {EVERY - 2: "dev", EVERY - 1: "test"}.get(i % EVERY, "train"):
                chosen.add(template.name)
    return tuple(template for template in templates if template.name in chosen)


def _chance(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
