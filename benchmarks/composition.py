"""Two LoRAs of two tasks made one by each way, and what is left of each task.

MiniLM with a frozen random head sorts notes about money by category, and by currency. One LoRA is trained on each task;
the base alone can do neither. Prints the accuracy on held-out notes, among the labels of the task, as JSON.

    python benchmarks/composition.py
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import TrainingArguments

import deltatune as dt
from deltatune.demo.task import examples
from deltatune.train.collate import Collator
from deltatune.train.encode import EncodedSet, encode_records
from deltatune.train.labels import LabelSet
from deltatune.train.records import read_records

TASKS = ("category", "currency")
TRAINED, TESTED = 400, 120
WAYS: dict[str, dict[str, Any]] = {
    "cat": {},
    "svd": {"rank": 8},
    "linear": {},
    "factors": {},
    "ties": {"density": 0.5},
    "ties_svd": {"density": 0.5, "rank": 8},
    "dare": {"density": 0.5},
    "dare_svd": {"density": 0.5, "rank": 8},
    "magnitude": {"density": 0.5},
    "magnitude_svd": {"density": 0.5, "rank": 8},
}


def notes(split: str, size: int, task: str) -> list[dict[str, str]]:
    """Notes, each with one of their fields."""
    rows = examples(split, size=size)
    return [
        {
            "text": row["prompt"].split("\n")[0].removeprefix("Note: "),
            "label": str(json.loads(row["completion"])[task]),
        }
        for row in rows
    ]


def main() -> dict[str, Any]:
    """Train, compose, evaluate."""
    torch.manual_seed(0)
    texts = {task: notes("train", TRAINED, task) for task in TASKS}
    labels = LabelSet.of(read_records([row for rows in texts.values() for row in rows]))
    names = dict(enumerate(labels.names))
    base = dt.load_base("minilm", task="sequence-classification", id2label=names)
    torch.nn.init.normal_(base.model.classifier.weight)

    def encoded(rows: list[dict[str, str]]) -> EncodedSet:
        return encode_records(read_records(rows), base.tokenizer, kind="classification", labels=labels)

    for seed, task in enumerate(TASKS):
        torch.manual_seed(seed)
        if seed:
            dt.disable(base.model)
        dt.attach(base.model, dt.LoRA(r=8, alpha=16, targets=("all_linear",), train_also=()), name=task)
        train(base, encoded(texts[task]).examples)
        dt.deltas(base.model)[task].freeze()
        print(f"trained {task}", file=sys.stderr)
    collate = Collator.of(base.tokenizer)
    tests = {task: collate(encoded(notes("test", TESTED, task)).examples) for task in TASKS}
    own = {task: sorted({labels.ids[row["label"]] for row in texts[task]}) for task in TASKS}

    @torch.no_grad()
    def scores() -> dict[str, float]:
        found = {}
        for task, batch in tests.items():
            chosen = base.model.eval()(**batch).logits[:, own[task]].argmax(-1)
            found[task] = float((torch.tensor(own[task])[chosen] == batch["labels"]).double().mean())
        return found

    table: dict[str, Any] = {}
    dt.disable(base.model)
    table["base"] = scores()
    for task in TASKS:
        dt.enable(base.model, task)
        table[f"{task} alone"] = scores()
        dt.disable(base.model)
    for how, settings in WAYS.items():
        for weight in (1.0, 0.5):
            start = time.perf_counter()
            made = dt.compose(dict.fromkeys(TASKS, weight), how, model=base.model, **settings)  # type: ignore[arg-type]
            seconds = time.perf_counter() - start
            table[f"{how} {weight:g}"] = {**scores(), "error": made.error, "rank": made.rank, "seconds": seconds}
            dt.detach(base.model, "composed")
    return table


def train(base: Any, data: list[Any]) -> None:
    """A few epochs on one task."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        dt.Trainer(
            model=base.model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=3,
                per_device_train_batch_size=16,
                learning_rate=1e-3,
                lr_scheduler_type="linear",
                warmup_steps=10,
                logging_steps=25,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=data,
            data_collator=Collator.of(base.tokenizer),
        ).train()


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
