"""The classes of labeled data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from deltatune.errors import DataError
from deltatune.train.examples import Labeled
from deltatune.train.records import Record

__all__ = ["LabelSet"]


@dataclass(frozen=True)
class LabelSet:
    """The class names; a name's position is its id."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, records: Iterable[Record]) -> LabelSet:
        """Collect the labels of `records`, sorted as numbers if all are whole numbers, else as text.

        Raises:
            DataError: there are fewer than two, so nothing to tell apart.
        """
        names = {str(r.example.label) for r in records if isinstance(r.example, Labeled)}
        if len(names) < 2:
            found = f"only {next(iter(names))!r}" if names else "none"
            raise DataError(f"labels: found {found}; expected at least two classes; check the field 'label'")
        numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
        return cls(tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name))))

    @cached_property
    def ids(self) -> dict[str, int]:
        """From name to id, as a model's config wants it for `label2id`."""
        return {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)
