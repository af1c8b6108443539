"""Options that hold several things, with commas between them."""

from __future__ import annotations

from deltatune.errors import ConfigError

__all__ = ["listed", "whole_numbers"]


def listed(text: str) -> list[str]:
    """The parts of a list."""
    return [part.strip() for part in text.split(",")]


def whole_numbers(option: str, text: str) -> list[int]:
    """The whole numbers of a list.

    Args:
        option: that it was given to, for the error.
        text: such as "0,4,16".

    Raises:
        ConfigError: a part is no whole number from 0.
    """
    parts = listed(text)
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"{option}: expected whole numbers with commas, as 0,4,16, found {text!r}; correct it")
    return [int(part) for part in parts]
