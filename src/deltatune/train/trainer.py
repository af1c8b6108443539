"""A ``transformers`` Trainer that trains deltas.

Everything users have for the Trainer works: arguments, callbacks, trackers, schedules, Accelerate. What differs: only
deltas are optimised and saved, a method may ask for its own learning rates, a data set that supervises nothing is
refused, and a run resumes from the last checkpoint that was written whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.trainer_optimizer import is_optimizer_factory

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.errors import DataError, FileFormatError
from deltatune.train.checkpoints import last_whole_checkpoint, restore_deltas, save_deltas, save_states
from deltatune.train.groups import parameter_groups
from deltatune.train.hooks import Steps, on_step, prepare

__all__ = ["Trainer"]


class Trainer(transformers.Trainer):
    """``transformers.Trainer`` for a model with deltas attached.

    Takes the arguments of ``transformers.Trainer``. Checkpoints hold the deltas, the optimiser and the random
    states; ``train(resume_from_checkpoint=True)`` goes on to the same numbers as the uninterrupted run.

    Raises:
        AttachError: the model has no delta.
        DataError: no token of the training data is supervised, or none of a whole step.
    """

    def __init__(self, model: nn.Module | None = None, args: Any = None, **kwargs: Any) -> None:
        if model is not None:
            bank_of(model)
        with _taken_for_trainable(model):
            super().__init__(model, args, **kwargs)
        self.card: dict[str, object] = {}
        """Rows for the model card of what is saved."""
        self._steps: Steps | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, from the start or from a checkpoint.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or true for the last whole one of ``args.output_dir``.
            *args: as for ``transformers.Trainer.train``.
            **kwargs: as for ``transformers.Trainer.train``.

        Raises:
            FileFormatError: there is no whole checkpoint.
            DataError: the data supervise nothing.
        """
        _refuse_unsupervised(self.train_dataset)
        if resume_from_checkpoint is True:
            run = Path(str(self.args.output_dir))
            last = last_whole_checkpoint(self._base, run)
            if last is None:
                raise FileFormatError(f"{run}: expected a whole checkpoint, found none; train without resuming")
            resume_from_checkpoint = str(last)
        if not resume_from_checkpoint:
            prepare(self._base, _TrainingBatches(self))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser of ``args.optim`` over the deltas, with each method's own learning rates."""
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            base: Any = self.model if model is None else model
            optimizer, settings = self.get_optimizer_cls_and_kwargs(self.args, base)
            if not is_optimizer_factory(optimizer) and not {"params", "model", "optimizer_dict"} & settings.keys():
                groups = parameter_groups(base, self.args.learning_rate, self.args.weight_decay)
                self.optimizer_cls_and_kwargs = (optimizer, {**settings, "params": groups})
        return super().create_optimizer(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As in the base class; from here on the methods' hooks run around each step."""
        if self._steps is not None:
            self._steps.remove()
        trained: Any = optimizer or self.optimizer
        self._steps = on_step(self._base, trained, total_steps=num_training_steps)
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """As in the base class; a step without one supervised token would divide by zero, so it is refused."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and count is not None and not bool(torch.as_tensor(count).any()):
            raise DataError(
                f"step {self.state.global_step + 1}: expected supervised tokens, found every label -100; "
                "raise max_length or drop examples without an answer"
            )
        return batches, count

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the deltas, the processing class and the arguments; never the base."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        save_deltas(self._base, folder, self.card)
        if _internal_call:  # a checkpoint to go on from, not only a result
            save_states(self._base, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n")
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Save deltas", revision=self.args.hub_revision)

    @property
    def _base(self) -> nn.Module:
        assert self.model is not None
        return unwrap(self.model)

    # The base class has no public call for what follows; the resume tests fail when these move.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore_deltas(self._base, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        assert best is not None
        restore_deltas(self._base, Path(best))


class _TrainingBatches:
    """The training batches, made only when a method asks for them."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[Any]:
        for batch in self.trainer.get_train_dataloader():
            yield self.trainer._prepare_inputs(batch)


@contextlib.contextmanager
def _taken_for_trainable(model: nn.Module | None) -> Iterator[None]:
    """The base class refuses a quantised model unless adapters are on it, which it knows by a mark of its own."""
    mark = "_hf_peft_config_loaded"
    if model is None or not getattr(model, "is_quantized", False):
        yield
        return
    former = getattr(model, mark, False)
    setattr(model, mark, True)
    try:
        yield
    finally:
        setattr(model, mark, former)


def _refuse_unsupervised(dataset: Any) -> None:
    """Trainers accept a data set whose labels are all masked, and train on nothing."""
    if dataset is None or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        return
    for index in range(len(dataset)):
        labels = dataset[index].get("labels") if hasattr(dataset[index], "get") else None
        if labels is None or bool((torch.as_tensor(labels) != -100).any()):
            return
    raise DataError(
        f"training data: expected supervised tokens, found none in {len(dataset)} examples (every label is -100); "
        "check the answers and max_length"
    )
