"""The demo: a small model learns to answer questions from a database. And the data of the tutorial.

python -m deltatune.demo                 # the whole story, six to ten minutes on two cores
python -m deltatune.demo data FOLDER     # only write the tutorial's data, as JSONL
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

TEST_SEED = 1
"""The tutorial's settings were chosen on the held-out notes of seed 0; these are others."""


def main(arguments: Sequence[str]) -> None:
    """Run the verb that the command line names, or the whole story."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it talks while it is imported
    match list(arguments):
        case []:
            from deltatune.demo.story import story

            story()
        case ["data", folder]:
            write_data(Path(folder))
        case _:
            raise SystemExit(__doc__)


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write both parts of the tutorial's data as JSONL and return their files."""
    from deltatune.demo.task import examples

    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.jsonl", folder / "test.jsonl"
    for file, rows in zip(files, (examples("train"), examples("test", seed=TEST_SEED)), strict=True):
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return files


if __name__ == "__main__":
    main(sys.argv[1:])
