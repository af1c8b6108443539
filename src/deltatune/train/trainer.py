"""A ``transformers`` Trainer that trains deltas.

Everything users have for the Trainer works: arguments, callbacks, trackers, schedules, Accelerate. What differs: only
deltas are optimised and saved, a method may ask for its own learning rates, a data set that supervises nothing is
refused, and a run resumes from the last checkpoint that was written whole.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import DynamoBackend
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_optimizer import is_optimizer_factory

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.attachment.shards import is_sharded
from deltatune.errors import ConfigError, DataError, FileFormatError
from deltatune.io.bases import TASKS
from deltatune.packing.settings import Packing
from deltatune.packing.texts import Texts, is_text
from deltatune.train.checkpoints import (
    begin_checkpoint,
    last_whole_checkpoint,
    restore_deltas,
    save_deltas,
    save_states,
)
from deltatune.train.choice import Choice
from deltatune.train.collate import Collator
from deltatune.train.compiled import Compilation, compiled
from deltatune.train.distributed import average_gradients, keep_whole, replicate
from deltatune.train.groups import parameter_groups
from deltatune.train.hooks import Steps, on_step, prepare
from deltatune.train.memory_budget import MemoryPlan
from deltatune.train.trunk_cache import TrunkCache

__all__ = ["Trainer"]


class Trainer(transformers.Trainer):
    """``transformers.Trainer`` for a model with deltas attached.

    Takes the arguments of ``transformers.Trainer``. Checkpoints hold the deltas, the optimiser and the random
    states; ``train(resume_from_checkpoint=True)`` goes on to the same numbers as the uninterrupted run.

    Examples of a causal language model, ``input_ids`` with as many ``labels`` each, are trained on without padding, and
    those of any language model without logits of tokens that have no label: the same loss and gradients in less time
    and memory.

    Args:
        model: the model, with deltas attached.
        args: ``transformers.TrainingArguments``. With ``torch_compile`` the layers are compiled, once for batches of
            any length, and not lean; the loss and evaluation run as ever.
        packing: how to lay examples out without padding; ``False``: pad them, and let the model make its own loss.
            Default: as :class:`Packing` has it where model and data allow, unless there is a ``data_collator`` other
            than deltatune's.
        lean: keep less for the backward pass: what a few elementwise steps make again is not kept. Default: true.
        memory_budget: what a step may take on each device, weights included, such as ``"16GiB"`` or a number of bytes:
            as many layers are checkpointed as that asks for, and no more. Default: ``None``, no layer is.
        cache_trunk: keep what the layers below all deltas answer in ``output_dir/trunk``, so that each text runs
            through them once, or in the folder given. It takes as many numbers a token as the model is wide, on disk.
            Default: false.
        **kwargs: as for ``transformers.Trainer``.

    Raises:
        AttachError: the model has no delta.
        ConfigError: ``packing`` is asked for, but the model or the data do not allow it; ``memory_budget`` can not be
            met; there is no trunk to cache; what is asked for beside ``torch_compile`` can not be compiled; or what
            trains in several processes can not train deltas.
        DataError: no token of the training data is supervised, or none of a whole step.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: Any = None,
        *,
        packing: Packing | bool | None = None,
        lean: bool = True,
        memory_budget: int | str | None = None,
        cache_trunk: bool | str | Path = False,
        **kwargs: Any,
    ) -> None:
        if model is not None:
            bank_of(model)
        if kwargs.get("data_collator") is None and is_text(kwargs.get("train_dataset")):
            tokenizer = kwargs.get("processing_class")
            kwargs["data_collator"] = Collator(0) if tokenizer is None else Collator.of(tokenizer)
        with _taken_for_trainable(model):
            super().__init__(model, args, **kwargs)
        if self.is_deepspeed_enabled:
            raise ConfigError(
                "deepspeed: expected DDP or FSDP2, found DeepSpeed, whose optimiser hides the gradients that methods "
                "work on; use examples/accelerate/ddp.yaml in place of ZeRO-1 and 2, fsdp2.yaml in place of ZeRO-3"
            )
        if self.is_fsdp_enabled:
            keep_whole(self._base, self.accelerator.state.fsdp_plugin)
        self.card: dict[str, object] = {}
        """Rows for the model card of what is saved."""
        self.savings = Choice(self).savings(packing, lean=lean, budget=memory_budget, trunk=cache_trunk)
        """What is saved in each step, and how."""
        self.memory_plan: MemoryPlan | None = None
        """Which layers the memory budget checkpoints, from the beginning of training on."""
        self.trunk_cache: TrunkCache | None = None
        """What the layers below all deltas answered, during training."""
        self.compilation: Compilation | None = None
        """What ``args.torch_compile`` has compiled, from the beginning of training on."""
        if self.savings.compiles:
            # Else Accelerate would compile the whole model, which packed batches and our losses break to pieces.
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        if self.savings.makes_loss:
            self.model_accepts_loss_kwargs = True
            self.label_smoother = None  # it needs the logits of every token; our losses smooth by themselves
        elif not _divides_by_the_step(self._base):
            self.model_accepts_loss_kwargs = False  # then a step's loss is the mean over its batches
        self._steps: Steps | None = None
        if self.savings.trunk is not None:
            self.add_callback(_SharesTrunk(self))

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
        if self.is_fsdp_enabled:
            replicate(self._base, self.args.device)
        with self.savings.on(self._base) as (self.memory_plan, self.trunk_cache):
            if not resume_from_checkpoint:
                prepare(self._base, _TrainingBatches(self))
            with self._compiling() as self.compilation:
                return super().train(resume_from_checkpoint, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """As in the base class, or batches without padding."""
        if self.packing is None:
            return super().get_train_dataloader()
        args, dataset = self.args, self.train_dataset
        batches = self.packing.batches(
            Texts(dataset),
            self._train_batch_size,
            processes=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch=lambda: int(self.state.epoch or 0),
        )
        loader = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=batches,
            collate_fn=self.packing.collate,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in the base class; FSDP does not see the deltas, so their gradients are averaged here."""
        loss = super().training_step(*args, **kwargs)
        if self.is_fsdp_enabled and self.accelerator.sync_gradients:
            average_gradients(self._base)
        return loss

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """As in the base class; a step without one supervised token would divide by zero, so it is refused."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and "packed" in batches[0]:  # whether or not there are weights: the other processes may have some
            weight = torch.stack([batch["packed"].total_weight.to(device, torch.float32) for batch in batches]).sum()
            count = self.accelerator.reduce(weight, "sum") if self.args.average_tokens_across_devices else weight
        if batches and count is not None and not bool(torch.as_tensor(count).any()):
            raise DataError(
                f"step {self.state.global_step + 1}: expected supervised tokens, found every label -100; "
                "raise max_length or drop examples without an answer"
            )
        return batches, count

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the deltas, the processing class and the arguments; never the base. Every process has to call it."""
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            begin_checkpoint(folder)
        if self.args.should_save or is_sharded(self._base):  # then the others give their parts of the base's identity
            save_deltas(self._base, folder, self.card)
        if not self.args.should_save:
            return
        if _internal_call:  # a checkpoint to go on from, not only a result
            save_states(self._base, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Save deltas", revision=self.args.hub_revision)

    @property
    def packing(self) -> Packing | None:
        """How batches are made; ``None`` if they are padded."""
        return self.savings.packing

    def _compiling(self) -> contextlib.AbstractContextManager[Compilation | None]:
        if not self.savings.compiles:
            return contextlib.nullcontext()
        backend, mode = self.args.torch_compile_backend, self.args.torch_compile_mode
        return compiled(self._base, backend=backend or "inductor", mode=mode)

    @property
    def _base(self) -> nn.Module:
        assert self.model is not None
        return unwrap(self.model)

    # The base class has no public call for what follows; the resume tests fail when these move.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore_deltas(self._base, Path(resume_from_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._as_if_not_sharded():
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with self._as_if_not_sharded():
            super()._load_optimizer_and_scheduler(checkpoint)

    @contextlib.contextmanager
    def _as_if_not_sharded(self) -> Iterator[None]:
        """Every process has the optimiser's whole state; what is written and read as shards would be the base."""
        sharded, self.is_fsdp_enabled = self.is_fsdp_enabled, False
        try:
            yield
        finally:
            self.is_fsdp_enabled = sharded

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.args.should_save:  # under both names, for the run may go on with one process or with several
            single, first = (Path(output_dir) / name for name in ("rng_state.pth", "rng_state_0.pth"))
            shutil.copyfile(*((first, single) if self.args.world_size > 1 else (single, first)))
        self.accelerator.wait_for_everyone()  # the file that makes a checkpoint whole is written after those of all

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        assert best is not None
        restore_deltas(self._base, Path(best))


class _SharesTrunk(TrainerCallback):
    """Lets every process find at the end of an epoch what the others have kept in it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.trunk_cache is not None:
            self.trainer.trunk_cache.commit()
        self.trainer.accelerator.wait_for_everyone()


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


def _divides_by_the_step(model: nn.Module) -> bool:
    """Whether the model's own loss is divided by the labels of the whole step.

    Of transformers' models those of causal language models are. Others take the same arguments, and the trainer
    believes them for it, but their loss is the mean over the batch.
    """
    return type(model).__name__.endswith(TASKS["causal-lm"].endings)
