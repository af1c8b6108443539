"""The sides of the training benchmark: the same delta trained on the same batches, each side in its usual way.

This program is a worker, see `turns`; `starts` wrote the folder that it begins from.

    python benchmarks/trainers.py "peft + Trainer" "lora q,v" FOLDER BATCHES.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, TrainerCallback, TrainingArguments, set_seed

import deltatune as dt
from cases import Batch, Example
from deltatune.io.bases import Base
from deltatune.train.collate import Collator
from starts import base_of
from turns import Turns

RATE = 1e-4


@dataclass(frozen=True)
class Job:
    """What a side is given."""

    base: Base
    start: Path
    """The folder of the delta to go on from."""
    batches: list[Batch]
    turns: Turns

    @property
    def examples(self) -> list[Example]:
        return [example for batch in self.batches for example in batch]

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that all trainers get."""
        return {
            "output_dir": tempfile.gettempdir(),
            "max_steps": len(self.batches),
            "per_device_train_batch_size": len(self.batches[0]),
            "train_sampling_strategy": "sequential",
            "learning_rate": RATE,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
        }


class TakeTurns(TrainerCallback):
    """Makes a trainer wait for its turn before each step. A turn ends where the next step could begin: in it are one
    step and the making of one batch.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.loss: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.turns.take(loss=self.loss)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.loss = kwargs["logs"].get("loss", self.loss)


class InOrder(dt.Trainer):
    """Batches in the order of the examples, which packing would draw by itself, so that all sides see the same."""

    def get_train_dataloader(self) -> Any:
        collate = self.data_collator if self.packing is None else self.packing.collate
        batches = DataLoader(self.train_dataset, self.args.train_batch_size, collate_fn=collate)
        return self.accelerator.prepare(batches)


def deltatune_trainer(job: Job) -> None:
    dt.load(job.base.model, job.start, trainable=True)
    InOrder(
        model=job.base.model,
        args=TrainingArguments(**job.settings),
        train_dataset=job.examples,
        data_collator=Collator.of(job.base.tokenizer),
        callbacks=[TakeTurns(job.turns)],
    ).train()


def peft_trainer(job: Job) -> None:
    transformers.Trainer(
        model=_peft(job),
        args=TrainingArguments(**job.settings),
        train_dataset=job.examples,
        data_collator=_padding(job),
        callbacks=[TakeTurns(job.turns)],
    ).train()


def peft_loop(job: Job) -> None:
    model, collate = _peft(job).train(), _padding(job)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    loss = None
    for batch in job.batches:
        job.turns.take(loss=loss)
        output = model(**collate(batch))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = float(output.loss.detach())


def trl(**settings: Any) -> Callable[[Job], None]:
    """TRL's trainer as it is, but in float32 and without checkpointing, like all others."""

    def train(job: Job) -> None:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        SFTTrainer(
            model=_peft(job),
            args=SFTConfig(**job.settings, max_length=None, bf16=False, gradient_checkpointing=False, **settings),
            train_dataset=Dataset.from_list(job.examples),
            processing_class=job.base.tokenizer,
            callbacks=[TakeTurns(job.turns)],
        ).train()

    return train


SIDES: dict[str, Callable[[Job], None]] = {
    "deltatune": deltatune_trainer,
    "peft + Trainer": peft_trainer,
    "peft + TRL": trl(padding_free=True),
    "peft + TRL padded": trl(),
    "peft + loop": peft_loop,
}


def _peft(job: Job) -> Any:
    import peft

    # Not `PeftModel.from_pretrained`, which refuses to go on training a prompt.
    config = peft.PeftConfig.from_pretrained(str(job.start))
    config.inference_mode = False
    model = peft.get_peft_model(job.base.model, config)
    peft.set_peft_model_state_dict(model, peft.load_peft_weights(str(job.start)))
    return model


def _padding(job: Job) -> Any:
    collator = DataCollatorWithPadding if job.base.task == "sequence-classification" else DataCollatorForSeq2Seq
    return collator(job.base.tokenizer)


def main(side: str, method: str, folder: str, batches: str) -> None:
    """Train one side until nobody asks for another step."""
    turns = Turns()
    set_seed(0)
    SIDES[side](Job(base_of(method), Path(folder) / method, json.loads(Path(batches).read_text()), turns))


if __name__ == "__main__":
    main(*sys.argv[1:])
