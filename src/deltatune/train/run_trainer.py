"""The trainer of a run: exact evaluation, a log in the run's folder, and nothing lost at the last step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback, TrainerState

from deltatune.sizes import size_text
from deltatune.train.checkpoints import FILES, restore_deltas
from deltatune.train.evaluate import score
from deltatune.train.folder import RunFolder
from deltatune.train.setup import KINDS, Setup
from deltatune.train.trainer import Trainer

__all__ = ["AtTheEnd", "RunTrainer", "TellSavings", "WriteLog"]


class RunTrainer(Trainer):
    """The trainer, with evaluation that weighs every token alike."""

    setup: Setup

    def take_over(self, checkpoint: Path) -> None:
        """Stand where a checkpoint stands, without training on."""
        self.state = TrainerState.load_from_json(str(checkpoint / FILES[-1]))
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        restore_deltas(self.setup.base.model, checkpoint if best is None else Path(best))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As in the base class, but for the scores: those of `deltatune.train.evaluate`, whatever the batches."""
        model = self.model_wrapped if self.is_fsdp_enabled else self.model
        assert model is not None
        labels = self.setup.train.labels
        scores = score(
            model,
            self.get_eval_dataloader(eval_dataset),
            KINDS[self.setup.base.task],
            labels.names if labels else (),
            gather=self.accelerator.gather_for_metrics,
            context=self._forward_context,
            packed=not self.is_fsdp_enabled,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @contextlib.contextmanager
    def _forward_context(self) -> Iterator[None]:
        """What the model runs in, its own ``forward`` or not: Accelerate puts autocast into that alone."""
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            yield


class TellSavings(TrainerCallback):
    """Says before the first step what is saved in each, and what of it was planned; and what was compiled after a step.

    Args:
        trainer: the run's.
        console: where to.
    """

    def __init__(self, trainer: RunTrainer, console: Console) -> None:
        self.trainer, self.console = trainer, console
        self.told = 0
        """How many compiled graphs were."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        plan, cache, data = self.trainer.memory_plan, self.trainer.trunk_cache, self.trainer.setup.train
        self._say(self.trainer.savings)
        if plan is not None:
            self._say(plan)
        if cache is not None:
            depth = len(cache.trunk.layers)
            self._say(f"{depth} layers run once a text: up to {size_text(cache.bytes_for(data.tokens))} on disk")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        compilation = self.trainer.compilation
        if compilation is not None and compilation.graphs + compilation.recompiled > self.told:
            self.told = compilation.graphs + compilation.recompiled
            self._say(compilation)

    def _say(self, what: object) -> None:
        self.console.print(str(what), highlight=False, soft_wrap=True)


class AtTheEnd(TrainerCallback):
    """The last step is logged, evaluated and saved too, however the intervals fall."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate |= args.eval_strategy == "steps"
            control.should_save |= args.save_strategy == "steps"


class WriteLog(TrainerCallback):
    """Writes the run's log."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.folder.append_log({"step": state.global_step, **(logs or {})})
