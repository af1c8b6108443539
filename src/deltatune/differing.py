"""What differs between two settings, and going on with those that something was begun with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltatune.errors import ConfigError

__all__ = ["differing", "refuse_others"]


def differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of what differs between plain data.

    Args:
        one: names and values, which may be such data again.
        other: likewise.
        prefix: of all names.
    """
    names: list[str] = []
    for name in dict.fromkeys([*one, *other]):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differing(a, b, f"{prefix}{name}.")
        elif a != b:
            names.append(prefix + name)
    return names


def refuse_others(folder: Path, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """See that what is in a folder is resumed with the settings that it was begun with.

    Args:
        folder: what is resumed.
        begun: the settings that may not change, as they were.
        asked: as they are now.

    Raises:
        ConfigError: others are asked for.
    """
    if changed := differing(begun, asked):
        raise ConfigError(
            f"--resume: expected the settings that {folder} was begun with, found others for {', '.join(changed)}; "
            "take the old ones, or --overwrite"
        )
