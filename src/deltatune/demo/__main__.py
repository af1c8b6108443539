"""The demo: fine-tune SmolLM2-135M to read notes, and show what came of it.

python -m deltatune.demo                 # the whole story, about five minutes on two cores
python -m deltatune.demo data FOLDER     # only write the data, as JSONL
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from deltatune.demo.task import Example
    from deltatune.io.bases import Base

OUT = Path("runs/demo")
ANSWER_TOKENS = 72
"""Every record of the task is shorter."""
TEST_SEED = 1
"""The settings below were chosen on the held-out notes of seed 0; these are others."""
FRESH = 8
"""How many notes a fresh process answers, to see that it answers the same."""

SETTINGS: dict[str, Any] = {
    "base": {"model": "smollm2", "dtype": "float32"},
    "delta": {"method": "lora", "name": "notes", "r": 8, "alpha": 16, "targets": "all_linear"},
    "train": {"epochs": 1, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 0.1, "logging_steps": 10, "seed": 0},
}


def main(arguments: Sequence[str]) -> None:
    """Run the verb that the command line names, or the whole story."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it talks while it is imported
    match list(arguments):
        case []:
            story()
        case ["data", folder]:
            write_data(Path(folder))
        case ["answers", folder]:
            print(json.dumps(answers(_open(folder), _held_out()[:FRESH])))
        case _:
            raise SystemExit(__doc__)


def story() -> None:
    """Measure, train, measure, save, reload in a fresh process, merge, and show the table."""
    from rich.console import Console

    import deltatune as dt
    from deltatune.demo.task import score
    from deltatune.train.config import RunConfig
    from deltatune.train.run import run

    console, start = Console(), time.perf_counter()
    train, _ = write_data(OUT / "data")
    held_out = _held_out()
    base = dt.load_base("smollm2", dtype="float32")
    with console.status(f"asking the untrained model about {len(held_out)} held-out notes"):
        before = answers(base, held_out)
    del base
    config = RunConfig.model_validate({**SETTINGS, "data": {"train": str(train)}, "output": str(OUT / "run")})
    result = run(config, overwrite=True, console=console)
    base = _open(str(result.final))
    with console.status("asking the trained model"):
        after = answers(base, held_out)
    with console.status("asking it again in a fresh process"):
        fresh = _ask_elsewhere(str(result.final))
    ids = base.tokenizer("Note: Lunch at Noodle Bar came to 34.50 euros.", return_tensors="pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merge = dt.merge(base.model, probe=dict(ids))
    merged = answers(base, held_out[:FRESH])
    references = [example["completion"] for example in held_out]
    scores = {
        name: [score(given, wanted) for given, wanted in zip(texts, references, strict=True)]
        for name, texts in {"before": before, "after": after}.items()
    }
    facts = {
        "exact records before": _share(each.exact for each in scores["before"]),
        "exact records after": _share(each.exact for each in scores["after"]),
        "right fields before": _share(right for each in scores["before"] for right in each.fields.values()),
        "right fields after": _share(right for each in scores["after"] for right in each.fields.values()),
        "a fresh process answers the same": fresh == after[:FRESH],
        "merged, it answers the same": merged == after[:FRESH],
        "largest difference of merged outputs": f"{merge.largest_difference:.0e}",
        "delta on disk": f"{(result.final / 'adapter_model.safetensors').stat().st_size / 2**20:.1f} MiB",
        "minutes": round((time.perf_counter() - start) / 60, 1),
    }
    (OUT / "demo.json").write_text(json.dumps(facts, indent=2) + "\n")
    _show(console, held_out[0], before[0], after[0], facts)
    if not (fresh == merged == after[:FRESH]):
        raise SystemExit("demo: the reloaded or merged model answers differently")


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write both parts of the data as JSONL and return their files."""
    from deltatune.demo.task import examples

    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.jsonl", folder / "test.jsonl"
    for file, rows in zip(files, (examples("train"), _held_out()), strict=True):
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return files


def answers(base: Base, notes: Sequence[Example]) -> list[str]:
    """What a model writes for each note, greedily."""
    from deltatune.train.evaluate import complete

    turns = [[{"role": "user", "content": note["prompt"]}] for note in notes]
    prompts: Any = base.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    return list(complete(base, prompts, batch_size=50, max_new_tokens=ANSWER_TOKENS))


def _held_out() -> list[Example]:
    from deltatune.demo.task import examples

    return examples("test", seed=TEST_SEED)


def _open(folder: str) -> Base:
    import deltatune as dt

    base = dt.load_base("smollm2", dtype="float32")
    dt.load(base.model, folder)
    return base


def _ask_elsewhere(folder: str) -> Any:
    command = [sys.executable, "-m", "deltatune.demo", "answers", folder]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1])


def _share(flags: Any) -> str:
    listed = list(flags)
    return f"{sum(listed) / len(listed):.0%}"


def _show(console: Console, note: Example, before: str, after: str, facts: dict[str, Any]) -> None:
    from rich.table import Table

    example = Table(title="A note it never saw", show_header=False)
    for name, text in {"note": note["prompt"].split("\n")[0], "before": before, "after": after}.items():
        example.add_row(name, text.strip())
    table = Table(title="SmolLM2-135M on held-out notes", show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    console.print(example, table)
    console.print(f"Everything is in {OUT}: the delta, its card, the log and the loss plot.")


if __name__ == "__main__":
    main(sys.argv[1:])
