"""Training next to Hugging Face PEFT: each side in its own process, in turns with deltatune, on the same examples.

SmolLM2-135M and MiniLM-L6 in float32, without dropout; LoRA and DoRA of rank 8, prompts of 20 tokens; AdamW at 1e-4.
All sides start from the same file and see the same examples in the same order; that their first losses agree is
checked.

- *mixed lengths*: 8 texts of 75 to 290 tokens with answers of 15 to 50; nothing is shared.
- *shared prefix*: 8 questions of 20 to 40 tokens under one schema of 200, with answers of 15 to 40.
- *classification*: 32 texts of 10 to 120 tokens, each with a label.

The sides are `dt.Trainer` with a list of encoded examples; PEFT in `transformers.Trainer` with its padding collator;
PEFT in TRL's `SFTTrainer`, which computes logits only where there is a label; and PEFT in a plain loop. *TRL* runs
without padding (`padding_free=True`, what its packing runs on), *TRL padded* as it does by default, which is faster
where texts are of about one length, and the only way for prompts: without padding PEFT ignores the positions that keep
texts apart. `bf16` and `gradient_checkpointing` are off, as for the others.

Tokens are those with a label, seconds those of the wall, and figures medians of steps; *ours / theirs* is deltatune's
speed over that of the side. The limit is the time that the products with weight matrices take which no step can do
without, at the rate of plain products in the same turns.

    python benchmarks/training.py                                # all cases
    python benchmarks/training.py 2 "mixed lengths, LoRA q,v"    # two measured steps of one
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases import CASES, Batch, Case, supervised
from limit import flops
from turns import Worker

OURS = "deltatune"
WARM_UP = 1
AGREE = 1e-3
"""How far a first loss may be from deltatune's, relatively."""

Turn = dict[str, Any]
Turns = dict[str, list[Turn]]
"""What each process of a pair said of its steps, the first ones too; plain products under ``limit``."""


def main(steps: str = "5", *names: str) -> dict[str, Any]:
    """All cases, or the named ones, with so many measured steps."""
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        starts = [sys.executable, str(Path(__file__).parent / "starts.py"), place]
        sizes = json.loads(subprocess.run(starts, stdout=subprocess.PIPE, check=True).stdout)
        for name in names or CASES:
            case = CASES[name]
            batches = case.batches(WARM_UP + int(steps) + 1)  # a turn ends with the batch of the next one made
            pairs = {label: take_turns(case, label, sizes, batches, folder) for label in case.runs if label != OURS}
            figures[name] = summary(case, sizes, batches, pairs)
            print(name, json.dumps(figures[name], indent=2), file=sys.stderr, flush=True)
    return figures


def take_turns(case: Case, label: str, sizes: Any, batches: list[Batch], folder: Path) -> Turns:
    """Let deltatune and one other take turns. Not all sides at once: a process keeps what it needed at its peak."""
    data = folder / "batches.json"
    data.write_text(json.dumps(batches))
    with contextlib.ExitStack() as stack:

        def worker(name: str, script: str, *arguments: str) -> Worker:
            made = Worker(script, *arguments, log=folder / f"{name}.log")
            stack.callback(made.close)
            return made

        workers = {"limit": worker("limit", "limit.py", json.dumps(sizes[case.method]))}
        for name in (OURS, label):
            run = case.runs[name]
            workers[name] = worker(name, "trainers.py", run.side, run.method, str(folder), str(data))
        rounds = [{name: each.step() for name, each in workers.items()} for _ in batches[:-1]]
    return {name: [turn[name] for turn in rounds] for name in workers}


def summary(case: Case, sizes: Any, batches: list[Batch], pairs: dict[str, Turns]) -> dict[str, dict[str, Any]]:
    """Each side's figures; deltatune's are from all pairs, the comparison is within one."""
    causal = case.base == "smollm2"
    measured = slice(WARM_UP, len(batches) - 1)

    def steps(label: str, turns: Turns) -> list[Turn]:
        size = sizes[case.runs[label].method]
        return [
            turn
            | {
                "tokens/s": supervised(batch) / turn["seconds"],
                "share": flops(size, batch, causal=causal) / turn["seconds"] / (1e9 * plain["GFLOP/s"]),
            }
            for turn, plain, batch in list(zip(turns[label], turns["limit"], batches, strict=False))[measured]
        ]

    ours = [step for turns in pairs.values() for step in steps(OURS, turns)]
    rows = {OURS: row(ours, ours)}
    for label, turns in pairs.items():
        rows[label] = row(steps(label, turns), steps(OURS, turns))
        rows[OURS]["first loss"], rows[label]["first loss"] = (
            round(turns[name][0]["loss"], 4) for name in (OURS, label)
        )
        if label in case.sides:
            check_first_losses(label, turns)
    return rows


def row(theirs: list[Turn], ours: list[Turn]) -> dict[str, float]:
    """The figures of one side."""

    def median(key: str, steps: list[Turn] = theirs) -> float:
        return statistics.median(step[key] for step in steps)

    return {
        "tokens/s": round(median("tokens/s"), 1),
        "ours / theirs": round(median("tokens/s", ours) / median("tokens/s"), 2),
        "CPU s a step": round(median("CPU seconds"), 2),
        "peak MiB": round(max(step["peak MiB"] for step in theirs)),
        "% of the limit": round(100 * median("share"), 1),
    }


def check_first_losses(label: str, turns: Turns) -> None:
    """Sides that start alike and see the same have the same loss; otherwise something else is being measured."""
    ours, theirs = (turns[name][0]["loss"] for name in (OURS, label))
    if abs(theirs - ours) > AGREE * abs(ours):
        raise SystemExit(f"{label}: expected a first loss of {ours}, found {theirs}; the sides do not train the same")


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
