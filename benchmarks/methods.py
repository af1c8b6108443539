"""Every method on two real models: score on held-out data, size, memory and time.

MiniLM sorts notes about money into six categories (accuracy; the base has its head trained and nothing else).
SmolLM2 turns the same notes into JSON records (loss on the supervised tokens of held-out notes, and the share of tokens
it would get right, one by one; the base is untrained). Sentences, payees and people of the held-out notes are in no
training note. Each row is a process of its own; memory is that of the whole process at its peak, time is
processor time of training.

    python benchmarks/methods.py minilm lora 0      # one row, as JSON
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

SEEDS = {"minilm": (0, 1), "smollm2": (0,)}

# The learning rate each method needs, from its paper or a few tries on other notes; the rest are its defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"lr": 3e-3},
    "bitfit": {"lr": 3e-3},
    "child": {"lr": {"minilm": 1e-3, "smollm2": 3e-4}},
    "dora": {"lr": 2e-3},
    "houlsby": {"lr": 2e-3},
    "ia3": {"lr": 1e-2},
    "lora": {"lr": 2e-3},
    "norm": {"lr": 3e-3},
    "parallel": {"lr": 1e-3},
    "pfeiffer": {"lr": 2e-3},
    "prefix": {"lr": 1e-2},
    "prompt": {"lr": 3e-2},
    "ptuning": {"lr": 3e-3},
    "relora": {"lr": 2e-3},
}
EXTRA: dict[str, dict[str, Any]] = {
    "bitfit/smollm2": {"add_missing": True},  # LLaMA has no biases
    "relora": {"restart_every": 25, "restart_warmup": 5},
}


def main(task: str, key: str | None = None, seed: str = "0") -> dict[str, Any]:
    """All rows of a task, or one."""
    if key is not None:
        return row(task, key, int(seed))
    rows = {}
    for key in ("base", *SETTINGS):
        rows[key] = _together([_elsewhere(task, key, seed) for seed in SEEDS[task]])
        print(task, key, rows[key], file=sys.stderr, flush=True)
    return {task: rows}


def row(task: str, key: str, seed: int) -> dict[str, float]:
    """Train one method on one model and measure it."""
    import torch
    from transformers import TrainingArguments, set_seed

    import deltatune as dt
    from deltatune.train.collate import Collator

    set_seed(seed)
    base, train, test = (_minilm if task == "minilm" else _smollm2)(seed)
    delta = _attach(base.model, task, key)
    start = time.process_time()
    if delta is not None:
        rate = SETTINGS.get(key, {"lr": 2e-3})["lr"]
        lr = rate[task] if isinstance(rate, dict) else rate
        with tempfile.TemporaryDirectory() as folder:
            args = TrainingArguments(
                output_dir=folder,
                num_train_epochs=3 if task == "minilm" else 1,
                max_steps=-1 if task == "minilm" else 20,
                per_device_train_batch_size=16 if task == "minilm" else 4,
                learning_rate=lr,
                warmup_steps=5,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_steps=1000,
                dataloader_pin_memory=False,
                seed=seed,
            )
            collate = Collator.of(base.tokenizer)
            dt.Trainer(model=base.model, args=args, train_dataset=train, data_collator=collate).train()
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        scores = _score(base, test, Collator.of(base.tokenizer), task)
    total = dt.summary(base.model)
    size = _file_size(delta) if delta is not None and key != "base" else 0.0
    share = 100 * total.trainable_parameters / total.base_parameters
    return {**scores, "trained %": share, "file KiB": size, "peak MiB": peak, "CPU s": seconds}


def _attach(model: Any, task: str, key: str) -> Any:
    import deltatune as dt
    from deltatune import methods
    from deltatune.attachment.part import Replacement

    if key == "base":  # a fresh head has to be trained for there to be a score at all
        if task != "minilm":
            return None
        delta = dt.attach(model, dt.BitFit())
        for _, part in delta.items():
            part.requires_grad_(isinstance(part, Replacement))
        return delta
    settings = {**EXTRA.get(key, {}), **EXTRA.get(f"{key}/{task}", {})}
    return dt.attach(model, methods.from_config({"method": key, **settings}))


def _minilm(seed: int) -> tuple[Any, Any, Any]:
    import deltatune as dt
    from deltatune.demo.task import examples
    from deltatune.train.encode import encode_records
    from deltatune.train.records import read_records

    def notes(split: Any, size: int) -> Any:
        rows = examples(split, seed=seed, size=size)
        texts = (row["prompt"].split("\n")[0].removeprefix("Note: ") for row in rows)
        labels = (json.loads(row["completion"])["category"] for row in rows)
        return read_records([{"text": t, "label": y} for t, y in zip(texts, labels, strict=True)])

    records = notes("train", 400)
    names = sorted({str(record.example.label) for record in records})
    base = dt.load_base("minilm", task="sequence-classification", id2label=dict(enumerate(names)))
    train = encode_records(records, base.tokenizer, kind="classification")
    test = encode_records(notes("test", 300), base.tokenizer, kind="classification", labels=train.labels)
    return base, train.examples, test.examples


def _smollm2(seed: int) -> tuple[Any, Any, Any]:
    import deltatune as dt
    from deltatune.demo.task import examples
    from deltatune.train.encode import encode_records
    from deltatune.train.records import read_records

    base = dt.load_base("smollm2", dtype="float32")
    encode = [encode_records(read_records(examples(s, seed=seed, size=n)), base.tokenizer) for s, n in _SPLITS]
    return base, encode[0].examples, encode[1].examples


_SPLITS: tuple[tuple[Any, int], ...] = (("train", 80), ("test", 40))


def _score(base: Any, test: Any, collate: Any, task: str) -> dict[str, float]:
    """Accuracy of a classifier; loss and accuracy over the supervised tokens of a language model."""
    import torch.nn.functional as F

    base.model.eval()
    right = count = loss = 0.0
    for start in range(0, len(test), 10):
        batch = collate(test[start : start + 10])
        labels = batch.pop("labels")
        logits = base.model(**batch).logits
        if task != "minilm":
            kept = labels[:, 1:] != -100
            logits, labels = logits[:, :-1][kept], labels[:, 1:][kept]
        right += float((logits.argmax(-1) == labels).sum())
        loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
        count += len(labels)
    return {"accuracy %": 100 * right / count, "loss": loss / count}


def _file_size(delta: Any) -> float:
    import deltatune as dt

    with tempfile.TemporaryDirectory() as folder:
        return (dt.save(delta, folder) / "adapter_model.safetensors").stat().st_size / 1024


def _elsewhere(task: str, key: str, seed: int) -> dict[str, float]:
    command = [sys.executable, __file__, task, key, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def _together(rows: list[dict[str, float]]) -> dict[str, str]:
    """Means, with the standard deviation over seeds for scores."""
    together = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        digits = 3 if name in ("loss", "trained %") else 1 if name == "accuracy %" else 0
        spread = (
            f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and name in ("accuracy %", "loss") else ""
        )
        together[name] = f"{statistics.mean(values):,.{digits}f}{spread}"
    return together


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
