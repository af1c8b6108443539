"""Many texts that begin alike, without training: answers scored, and prompts gone on from, next to `transformers`.

SmolLM2-135M in float32 with LoRA of rank 8 on query and value, tokens drawn from a seed.

- *scoring*: 3 questions of 20 tokens under a template of 120, each with 4 candidate answers of 3 tokens of which two
  begin alike. deltatune is `dt.score_answers`. *padded* is every prompt with every answer, the 4 of a question in a
  batch, through the model's own `forward`; *padded, few logits* is the same with `logits_to_keep` at the answers.
- *rows*: 16 rows of the heart data set as text, each with its question and two answers. deltatune is `class_scores`,
  which `deltatune.apps.tab` scores classes with; *one by one* is a pass for each answer of each row, *padded* is 8 such
  passes in a batch, both through the model's own `forward`.
- *writing*: 8 questions of 20 to 40 tokens under a schema of 200, gone on from greedily by 8 tokens. deltatune is
  `begun` before `generate`, with the check that the model allows it; *generate* is without. *writing on*: the same
  under a schema of 1,000, by 24 tokens; then what the schema's keys and values take at each step counts too.

The sides take turns in one process; the first round is not counted and figures are medians. *ours / theirs* is
deltatune's speed over that of the side, round by round, by the wall and by the processor: on a machine with other work
the second is the one to read, with `OMP_NUM_THREADS=1`, since threads that wait for each other count. *rows* are the
tokens that the layers run over: where the two ratios are far from that of the rows, something disturbed the run. That
all sides find the same is checked.

    python benchmarks/scoring.py      # three measured rounds
    python benchmarks/scoring.py 5
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any

import torch
from torch import Tensor

import deltatune as dt
from deltatune.apps.tab.datasets import load_dataset
from deltatune.apps.tab.scoring import class_scores
from deltatune.apps.tab.serialize import Serializer
from deltatune.apps.tab.task import Task
from deltatune.io.bases import Base
from deltatune.packing.prefill import begun, why_no_prefill
from deltatune.train.collate import Collator
from deltatune.train.complete import chunks
from starts import base_of

Side = Callable[[], Any]
OURS = "deltatune"
NEW, LONG = 8, 24
"""How many tokens are written."""
ROWS = 16
"""How many rows of a table are scored."""


def main(rounds: str = "3") -> dict[str, Any]:
    """Both cases, each with so many measured rounds."""
    base = base_of("lora q,v")
    model: Any = base.model
    delta = dt.attach(model, dt.LoRA(r=8, alpha=16, targets=("query", "value")))
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.normal_(std=0.01)
        return {
            "scoring, answers": compared(model, scorers(model, Random(0)), 12, int(rounds), 1e-3),
            "rows of a table": compared(model, tables(base), ROWS, int(rounds), 1e-3),
            "writing, tokens": compared(model, writers(model, Random(1), 200, NEW), 8 * NEW, int(rounds), 0),
            "writing on, tokens": compared(model, writers(model, Random(1), 1000, LONG), 8 * LONG, int(rounds), 0),
        }


def scorers(model: Any, random: Random) -> dict[str, Side]:
    """What each side does to score the answers; it returns their scores."""
    template = tokens(random, 120)
    prompts = [template + tokens(random, 20) for _ in range(3)]
    answers = [[*alike(random), tokens(random, 3), tokens(random, 3)] for _ in prompts]
    collate = Collator(0)

    def padded(few: bool) -> list[float]:
        found: list[float] = []
        for prompt, each in zip(prompts, answers, strict=True):
            batch = collate([{"input_ids": prompt + answer} for answer in each])
            columns = torch.arange(len(prompt) - 1, len(prompt) + 2)
            logits = model(**batch, use_cache=False, **({"logits_to_keep": columns} if few else {})).logits
            scores = (logits if few else logits[:, columns]).log_softmax(dim=-1)
            found += scores.gather(2, torch.tensor(each)[..., None]).sum(dim=(1, 2)).tolist()
        return found

    def ours() -> list[float]:
        return [score.log_probability for each in dt.score_answers(model, prompts, answers) for score in each]

    return {OURS: ours, "padded": lambda: padded(few=False), "padded, few logits": lambda: padded(few=True)}


def tables(base: Base) -> dict[str, Side]:
    """What each side does to score the classes of rows; it returns the mean log-likelihood of each answer."""
    data = load_dataset("heart")
    frame = data.frame.iloc[:ROWS]
    task = Task(data.question, data.answers)
    prompts = task.prompts(base, Serializer(units=data.units).fit(frame).texts(frame))
    answers = task.answer_tokens(base)
    model: Any = base.model
    collate = Collator(0)

    def passes(size: int) -> list[float]:
        found: list[float] = []
        for pairs in chunks([(prompt, answer) for prompt in prompts for answer in answers], size):
            batch = collate([{"input_ids": prompt + answer} for prompt, answer in pairs])
            likely = model(**batch, use_cache=False).logits.log_softmax(dim=-1)
            for row, (prompt, answer) in zip(likely, pairs, strict=True):
                columns = torch.arange(len(answer)) + len(prompt) - 1
                found.append(row[columns, torch.tensor(answer)].mean().item())
        return found

    def ours() -> list[float]:
        scores: list[float] = class_scores(base, prompts, answers).flatten().tolist()
        return scores

    return {OURS: ours, "one by one": lambda: passes(1), "padded": lambda: passes(8)}


def writers(model: Any, random: Random, schema_tokens: int, new: int) -> dict[str, Side]:
    """What each side does to go on from the prompts; it returns the tokens."""
    schema = tokens(random, schema_tokens)
    prompts = [schema + tokens(random, random.randint(20, 40)) for _ in range(8)]
    batch = Collator(0, "left")([{"input_ids": prompt} for prompt in prompts])

    def write(inputs: dict[str, Any]) -> list[int]:
        written: Tensor = model.generate(**inputs, do_sample=False, max_new_tokens=new, min_new_tokens=new)
        return written[:, -new:].flatten().tolist()

    def ours() -> list[int]:
        assert why_no_prefill(model) is None
        with begun(model, prompts) as inputs:
            return write(inputs)

    return {OURS: ours, "generate": lambda: write(batch)}


def tokens(random: Random, count: int) -> list[int]:
    return [random.randrange(1000, 40000) for _ in range(count)]


def alike(random: Random) -> list[list[int]]:
    """Two answers with the same first token."""
    first = tokens(random, 1)
    return [first + tokens(random, 2), first + tokens(random, 2)]


def compared(model: Any, sides: dict[str, Side], count: int, rounds: int, near: float) -> dict[str, dict[str, float]]:
    """The figures of each side, which take turns."""
    results, rows = {}, {}
    for name, side in sides.items():
        results[name], rows[name] = with_rows(model, side, name == OURS)
        if any(abs(a - b) > near for a, b in zip(results[name], results[OURS], strict=True)):
            raise SystemExit(f"{name} finds something else than {OURS}")
    sides[OURS]()  # what was known of the model ended with the hook that counts rows
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = clocks()
            side()
            taken[name].append((clocks()[0] - start[0], clocks()[1] - start[1]))

    def ratio(name: str, clock: int) -> float:
        pairs = zip(taken[name], taken[OURS], strict=True)
        return round(statistics.median(theirs[clock] / ours[clock] for theirs, ours in pairs), 2)

    figures = {}
    for name in sides:
        wall, processor = (statistics.median(each[clock] for each in taken[name]) for clock in (0, 1))
        figures[name] = {
            "rows": rows[name],
            "seconds": round(wall, 3),
            "CPU seconds": round(processor, 3),
            "a second": round(count / wall, 2),
            "ours / theirs": ratio(name, 0),
            "ours / theirs, CPU": ratio(name, 1),
        }
    return figures


def with_rows(model: Any, side: Side, is_ours: bool) -> tuple[Any, int]:
    """What a side finds, and how many tokens the layers run over for that."""
    seen: list[int] = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0][..., 0].numel()))
    try:
        if is_ours:
            side()  # a new hook makes deltatune try the model again
            seen.clear()
        return side(), sum(seen)
    finally:
        hook.remove()


def clocks() -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
