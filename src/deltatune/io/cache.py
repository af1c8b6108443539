"""Where deltatune keeps what it would else have to make again. All of it is safe to delete."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The folder that ``DELTATUNE_CACHE`` names, else ``deltatune`` in the user's cache; it need not be there yet."""
    if chosen := os.environ.get("DELTATUNE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltatune"
