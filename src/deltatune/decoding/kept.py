"""What an endpoint answered, kept on disk by the question, so that it is asked and paid for once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltatune.io.atomic import atomic_files

__all__ = ["Kept"]

_FORMAT = 1  # goes up when what is kept of an answer changes


class Kept:
    """A folder of answers, a JSON file each. It is safe to delete, and to share between processes.

    Args:
        folder: where they are; made when the first comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, question: Mapping[str, Any]) -> dict[str, float] | None:
        """The answer to a question, if it is there; a file that does not fit is as good as none."""
        try:
            kept = json.loads((self.folder / _name(question)).read_text(encoding="utf-8"))
            if kept["question"] != question:
                return None
            return {str(token): float(score) for token, score in kept["top"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, question: Mapping[str, Any], top: Mapping[str, float]) -> None:
        """Write an answer, whole or not at all."""
        text = json.dumps({"question": question, "top": list(top.items())}, ensure_ascii=False)
        with atomic_files(self.folder) as scratch:
            (scratch / _name(question)).write_text(text + "\n", encoding="utf-8")


def _name(question: Mapping[str, Any]) -> str:
    text = json.dumps([_FORMAT, question], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32] + ".json"
