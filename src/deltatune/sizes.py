"""Sizes of memory and files, read from text and written as text."""

from __future__ import annotations

import re

from deltatune.errors import ConfigError

__all__ = ["parse_size", "size_text"]

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12} | {
    f"{prefix}i": 2 ** (10 * power) for power, prefix in enumerate("kmgt", start=1)
}
"""What stands before ``B``, to bytes."""


def parse_size(size: int | str, name: str) -> int:
    """Bytes from a whole number of them or from text such as ``24GiB``, ``900 MB`` or ``1.5g``.

    Args:
        size: the number or the text.
        name: of the setting, for an error.

    Raises:
        ConfigError: it is no such text, or nothing.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(size).lower())
    count = round(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if not count:
        raise ConfigError(f"{name}: expected a size such as 24GiB or 900MB, found {size!r}; change it")
    return count


def size_text(count: float) -> str:
    """A number of bytes in words, such as 1.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
