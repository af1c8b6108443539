"""What tells files that were changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from deltatune.errors import DataError

__all__ = ["digest"]


def digest(files: Iterable[str | PathLike[str] | None]) -> str:
    """A hash of the bytes of files; a `None` among them is passed over.

    Raises:
        DataError: a file can not be read.
    """
    found = hashlib.sha256()
    for name in (name for name in files if name is not None):
        try:
            found.update(Path(name).read_bytes())
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{name}: can not be read ({reason}); expected a file; check the path") from None
    return found.hexdigest()
