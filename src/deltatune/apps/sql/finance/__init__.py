"""Three financial databases: their schemas, and how their rows are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from deltatune.apps.sql.finance.draw import Batch, Size
from deltatune.apps.sql.finance.equities import rows as equities_rows
from deltatune.apps.sql.finance.funds import rows as funds_rows
from deltatune.apps.sql.finance.macro import rows as macro_rows
from deltatune.apps.sql.schema import Database, parse_database
from deltatune.errors import ConfigError

__all__ = ["SOURCES", "Batch", "Size", "Source", "database", "source"]


@dataclass(frozen=True, slots=True)
class Source:
    """How the rows of one database are made, and how many there are by size."""

    rows: Callable[[Size, int], Iterator[Batch]]
    sizes: dict[str, Size]


SOURCES: dict[str, Source] = {
    "funds": Source(
        funds_rows,
        {
            "tiny": Size(40, 65, 8),
            "small": Size(160, 500, 12),
            "medium": Size(600, 1000, 20),
            "large": Size(2400, 1500, 24),
        },
    ),
    "equities": Source(
        equities_rows,
        {
            "tiny": Size(36, 65, 8),
            "small": Size(160, 500, 12),
            "medium": Size(600, 1000, 20),
            "large": Size(2000, 1500, 24),
        },
    ),
    "macro": Source(
        macro_rows,
        {
            "tiny": Size(12, 65, 12),
            "small": Size(24, 500, 20),
            "medium": Size(60, 1500, 40),
            "large": Size(160, 6000, 80),
        },
    ),
}


def source(name: str) -> Source:
    """How the rows of the named database are made.

    Raises:
        ConfigError: no database of ours has that name.
    """
    if name not in SOURCES:
        raise ConfigError(f"database: expected one of {', '.join(SOURCES)}, found {name!r}; choose one of them")
    return SOURCES[name]


@cache
def database(name: str) -> Database:
    """The schema of the named database.

    Raises:
        ConfigError: no database of ours has that name.
    """
    source(name)
    return parse_database(name, resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8"))
