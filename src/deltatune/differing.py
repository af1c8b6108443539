"""What differs between two settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["differing"]


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
