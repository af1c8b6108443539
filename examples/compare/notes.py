"""Write the notes about money of the demo's task, with their categories, for `minilm.yaml` to learn from.

    python examples/compare/notes.py
    deltatune compare examples/compare/minilm.yaml --search auto --search-data runs/notes/dev.jsonl

The notes of `dev.jsonl` and `test.jsonl` share no sentence, payee or person with those for training, nor a note with
each other: learning rates are chosen on the one, methods are judged on the other.
"""

from __future__ import annotations

import json
from pathlib import Path

from deltatune.demo.grammar import Split
from deltatune.demo.task import examples


def main(folder: Path = Path("runs/notes")) -> None:
    """Write `train.jsonl`, `dev.jsonl` and `test.jsonl`."""
    held_out = notes("test", 450)
    files = {"train": notes("train", 400), "dev": held_out[:150], "test": held_out[150:]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def notes(split: Split, size: int) -> list[dict[str, str]]:
    """Notes, each a text with its label."""
    return [
        {
            "text": row["prompt"].split("\n")[0].removeprefix("Note: "),
            "label": json.loads(row["completion"])["category"],
        }
        for row in examples(split, size=size)
    ]


if __name__ == "__main__":
    main()
