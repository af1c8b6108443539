"""The ways to say a row: a sentence a column, a list, the values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, get_args

__all__ = ["JOINED", "SAID", "STYLES", "Style"]

Style: TypeAlias = Literal["text", "list", "values", "custom"]
STYLES: tuple[Style, ...] = get_args(Style)

SAID: dict[Style, Callable[[str, str], str]] = {
    "text": lambda name, value: f"The {name} is {value.rstrip('.')}.",
    "list": lambda name, value: f"- {name}: {value}",
    "values": lambda _, value: f"- {value}",
}
"""One value in each style. A value that ends a sentence of its own does not end two."""

JOINED: dict[Style, Callable[[Iterable[str]], str]] = {
    "text": " ".join,
    "list": "\n".join,
    "values": "\n".join,
    "custom": " ".join,
}
"""A row, and the note before it, in each style."""
