"""What a model is taught to write: the SQL alone, its skeleton first, or reasons first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from deltatune.apps.sql.augment.reasoning import sql_after_reasons, with_reasons
from deltatune.apps.sql.augment.skeleton import sql_after_skeleton, with_skeleton
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.schema import Database
from deltatune.errors import ConfigError

__all__ = ["STYLES", "Style", "completion", "sql_of"]

Style: TypeAlias = Literal["sql", "skeleton", "reasoning"]
STYLES: tuple[Style, ...] = get_args(Style)

_WRITE: dict[str, Callable[[Example, Database], str]] = {
    "sql": lambda example, schema: example.sql,
    "skeleton": lambda example, schema: with_skeleton(example.sql, example.dialect),
    "reasoning": lambda example, schema: with_reasons(example.sql, example.dialect, schema),
}
_READ: dict[str, Callable[[str], str]] = {
    "sql": lambda text: text,
    "skeleton": sql_after_skeleton,
    "reasoning": sql_after_reasons,
}


def completion(example: Example, style: Style, schema: Database) -> str:
    """What a model should write for an example.

    Args:
        example: the question and its SQL.
        style: "sql", "skeleton" or "reasoning".
        schema: of the example's database.

    Raises:
        ConfigError: the style is unknown.
    """
    return _WRITE[_known(style)](example, schema)


def sql_of(text: str, style: Style) -> str:
    """The SQL in what a model has written; `sql_of(completion(example, style, schema), style)` is `example.sql`.

    Raises:
        ConfigError: the style is unknown.
    """
    return _READ[_known(style)](text)


def _known(style: str) -> str:
    if style not in STYLES:
        raise ConfigError(f"style: expected one of {', '.join(STYLES)}, found {style!r}; choose one of them")
    return style
