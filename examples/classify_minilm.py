"""Teach MiniLM to sort notes about money into categories: a classification head and a LoRA, trained together.

    python examples/classify_minilm.py

The head of a sequence-classification model is fresh, so it is found and trained with the delta and saved in its file.
"""

from __future__ import annotations

import json
import tempfile

import numpy as np
from transformers import TrainingArguments

import deltatune as dt
from deltatune.demo.task import examples
from deltatune.train.collate import Collator
from deltatune.train.encode import encode_records
from deltatune.train.records import read_records


def notes(split: str, size: int) -> list[dict[str, str]]:
    """Notes with their category, from the demo's task; held-out notes share no sentence or name with the others."""
    rows = examples(split, size=size)
    return [
        {
            "text": row["prompt"].split("\n")[0].removeprefix("Note: "),
            "label": json.loads(row["completion"])["category"],
        }
        for row in rows
    ]


def main() -> float:
    """Train for three epochs; returns the accuracy on held-out notes."""
    records = read_records(notes("train", 400))
    labels = sorted({str(record.example.label) for record in records})
    base = dt.load_base("minilm", task="sequence-classification", id2label=dict(enumerate(labels)))
    delta = dt.attach(base.model, dt.LoRA(r=8, alpha=16))
    print(dt.summary(base.model))

    train = encode_records(records, base.tokenizer, kind="classification")
    test = encode_records(read_records(notes("test", 200)), base.tokenizer, kind="classification", labels=train.labels)
    with tempfile.TemporaryDirectory() as folder:
        trainer = dt.Trainer(
            model=base.model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=3,
                per_device_train_batch_size=16,
                learning_rate=2e-3,
                lr_scheduler_type="linear",
                warmup_steps=10,
                logging_steps=25,
                save_strategy="no",
                report_to=[],
                dataloader_pin_memory=False,
            ),
            train_dataset=train.examples,
            eval_dataset=test.examples,
            data_collator=Collator.of(base.tokenizer),
            compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, axis=1) == p.label_ids).mean())},
        )
        before = trainer.evaluate()["eval_accuracy"]
        trainer.train()
        after = trainer.evaluate()["eval_accuracy"]
        dt.save(delta, f"{folder}/delta")
    print(f"accuracy on held-out notes: {before:.2f} before, {after:.2f} after")
    return after


if __name__ == "__main__":
    main()
