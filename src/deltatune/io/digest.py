"""What tells files that were changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

from deltatune.errors import DataError

__all__ = ["digest", "written_digests"]


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


def written_digests(digests: Mapping[str, str]) -> str:
    """Names with the beginnings of their digests, as a report's setting tells them: "funds 1f0c2ab4"."""
    return ", ".join(f"{name} {digest[:8]}".strip() for name, digest in digests.items())
