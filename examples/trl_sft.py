"""Deltas in TRL's SFTTrainer: a callback hands its optimiser to the methods' hooks.

pip install trl
python examples/trl_sft.py
"""

from __future__ import annotations

import tempfile
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

import deltatune as dt
from deltatune.demo.task import examples


class DeltaHooks(TrainerCallback):
    """Runs what the methods do around a step, on the optimiser that the trainer made."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        dt.on_step(kwargs["model"], kwargs["optimizer"], total_steps=state.max_steps)


def main(steps: int = 6) -> list[float]:
    """Train a few steps on the demo's notes; returns the losses."""
    base = dt.load_base("smollm2", dtype="float32")
    delta = dt.attach(base.model, dt.LoRA(r=8))
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=base.model,
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=4,
                learning_rate=1e-3,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                max_length=256,
                gradient_checkpointing=False,
                bf16=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list([dict(row) for row in examples("train", size=64)]),
            processing_class=base.tokenizer,
            callbacks=[DeltaHooks()],
        )
        trainer.train()
        dt.save(delta, f"{folder}/delta")
    assert int(delta.steps) == steps, "the hooks saw every step"
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


if __name__ == "__main__":
    print(main())
