"""A training run from its settings to its folder.

::

    output/
      config.yaml      the settings, defaults filled in
      log.jsonl        what was logged, a JSON object a line
      checkpoint-N/    to go on from
      final/           the trained deltas with a model card, the tokenizer and the settings
      loss.png         the loss curve
      metrics.json     the results; written last
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback

from deltatune.attachment.summary import summary
from deltatune.differing import refuse_others
from deltatune.errors import ConfigError, DeltaError
from deltatune.train.arguments import total_steps, training_arguments
from deltatune.train.checkpoints import last_whole_checkpoint
from deltatune.train.collate import Collator
from deltatune.train.config import PackingSpec, RunConfig
from deltatune.train.config_file import config_text, load_config
from deltatune.train.folder import RunFolder
from deltatune.train.plot import can_plot, plot_loss
from deltatune.train.progress import ProgressCallback, memory_bytes, print_header, print_sample
from deltatune.train.run_trainer import AtTheEnd, RunTrainer, TellSavings, WriteLog
from deltatune.train.setup import Setup, set_up

__all__ = ["Interrupted", "RunResult", "quiet", "run"]


@dataclass(frozen=True)
class RunResult:
    """What a run left behind."""

    folder: Path
    final: Path
    """The trained deltas; of several, each in a folder of its name."""
    metrics: dict[str, Any]
    """As in `metrics.json`."""
    is_main: bool = True
    """Whether this is the process that prints and writes."""


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; the message says from where it can go on."""


def run(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    console: Console | None = None,
) -> RunResult:
    """Train as `config` says.

    Under `accelerate launch` every process calls this; only the main one prints and writes.

    Args:
        config: the settings.
        resume: go on from the last whole checkpoint of `config.output`. Without one the run starts afresh.
        overwrite: delete the run that is in `config.output`.
        progress: print a header, a sample and how the run goes on. Default: true.
        console: where to. Default: standard output.

    Returns:
        Where the results are, and the results.

    Raises:
        ConfigError: settings or data can not be used, or the folder holds a run already.
        DeltaError: training failed.
        Interrupted: the user pressed Ctrl-C while it trained.
    """
    folder = RunFolder(Path(config.output))
    with quiet():
        args = training_arguments(config)
        main = args.process_index == 0
        console = (console or Console()) if progress and main else Console(quiet=True)
        if main:
            folder.check(resume=resume, overwrite=overwrite)
        setup = set_up(config)
        checkpoint = last_whole_checkpoint(setup.base.model, folder.path) if resume else None
        if checkpoint:
            _check_same(folder, setup.config)
        steps = total_steps(config, args, setup.train.examples)
        print_header(console, setup, summary(setup.base.model), steps=steps, world=args.world_size)
        print_sample(console, setup)
        if checkpoint and _step_of(checkpoint) >= steps and folder.is_finished:
            console.print(f"finished already, after {steps:,} steps; nothing to do")
            return RunResult(folder.path, folder.final, folder.read_metrics(), main)
        if resume:
            console.print(
                f"going on from {checkpoint}" if checkpoint else "no checkpoint to go on from: from the start"
            )
        if main:
            folder.begin(config_text(setup.config), overwrite=overwrite, step=_step_of(checkpoint))
        return _train(setup, args, folder, checkpoint, steps, console)


_MAY_CHANGE: Any = {
    "output": True,
    "base": {"device"},
    "train": {
        *("epochs", "max_steps", "eval_batch_size", "eval_steps", "logging_steps", "save_steps", "save_total_limit"),
        *("report_to", "memory_budget", "gradient_checkpointing", "compile", "cache_trunk"),
    },
}
"""What a run may go on with otherwise than it began: how long, and what changes no number of it."""


def _check_same(folder: RunFolder, config: RunConfig) -> None:
    """See that a run goes on with the settings that its checkpoints were made with.

    Raises:
        ConfigError: others are asked for.
    """
    begun, asked = (each.model_dump(mode="json", exclude=_MAY_CHANGE) for each in (load_config(folder.config), config))
    refuse_others(folder.path, begun, asked)


def _train(
    setup: Setup,
    args: transformers.TrainingArguments,
    folder: RunFolder,
    checkpoint: Path | None,
    steps: int,
    console: Console,
) -> RunResult:
    bar = ProgressCallback(console)
    trainer = _trainer(setup, args, [AtTheEnd(), WriteLog(folder), bar])
    trainer.add_callback(TellSavings(trainer, console))
    seconds = 0.0
    try:
        if checkpoint and _step_of(checkpoint) >= steps:  # only the result is missing
            trainer.take_over(checkpoint)
        else:
            output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            seconds = output.metrics["train_runtime"]
    except KeyboardInterrupt:
        raise Interrupted(_how_to_go_on(setup, folder)) from None
    finally:
        bar.close()
    metrics = _metrics(trainer, seconds)
    _finish(trainer, setup, folder, metrics, console)
    return RunResult(folder.path, folder.final, metrics, trainer.is_world_process_zero())


def _trainer(setup: Setup, args: transformers.TrainingArguments, callbacks: list[TrainerCallback]) -> RunTrainer:
    packing = setup.config.train.packing
    try:
        trainer = RunTrainer(
            setup.base.model,
            args,
            train_dataset=setup.train.examples,
            eval_dataset=setup.eval.examples if setup.eval else None,
            data_collator=Collator.of(setup.base.tokenizer),
            processing_class=setup.base.tokenizer,
            callbacks=callbacks,
            packing=packing.build() if isinstance(packing, PackingSpec) else packing,
            memory_budget=setup.config.train.memory_budget,
            cache_trunk=setup.config.train.cache_trunk,
        )
    except DeltaError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:  # such as a tracker of report_to that is not installed
        raise ConfigError(f"train: {' '.join(str(error).split())}") from None
    trainer.setup = setup
    trainer.remove_callback(PrinterCallback)
    trainer.card = _facts(setup)
    return trainer


def _finish(trainer: RunTrainer, setup: Setup, folder: RunFolder, metrics: dict[str, Any], console: Console) -> None:
    scores = {name: value for name, value in metrics.items() if name.endswith(_SCORES) and isinstance(value, float)}
    shown = {name.replace("_", " ").capitalize(): f"{value:.4f}" for name, value in scores.items()}
    trainer.card |= {"Steps": metrics["steps"], **shown}
    trainer.save_model(str(folder.final))
    if not trainer.is_world_process_zero():
        return
    folder.write({folder.config.name: config_text(setup.config)}, folder.final)
    if can_plot():
        plot_loss(folder.read_log(), folder.plot, setup.config.output)
    else:
        console.print('no loss.png: matplotlib is not installed; run pip install "deltatune\\[plot]"')
    folder.write_metrics(metrics)


_SCORES = ("loss", "accuracy", "macro_f1", "perplexity")


def _metrics(trainer: RunTrainer, seconds: float) -> dict[str, Any]:
    """The results: over the whole run as far as they can be, also if it was resumed."""
    state = trainer.state
    logged = [entry for entry in state.log_history if "loss" in entry]
    before = [0, *(entry["step"] for entry in logged)]
    spans = [entry["step"] - start for entry, start in zip(logged, before, strict=False)]
    losses = sum(entry["loss"] * span for entry, span in zip(logged, spans, strict=True))
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    best = [entry for entry in evaluations if entry["step"] == state.best_global_step]
    shown = (best if trainer.args.load_best_model_at_end and best else evaluations or [{}])[-1]
    return {
        "steps": state.global_step,
        "epochs": round(state.epoch or 0.0, 4),
        "train_loss": losses / max(sum(spans), 1),
        "last_loss": logged[-1]["loss"] if logged else None,
        **{name: value for name, value in shown.items() if name.startswith("eval_")},
        "tokens": state.num_input_tokens_seen,
        "seconds": round(seconds, 3),
        "memory_bytes": memory_bytes(),
    }


def _facts(setup: Setup) -> dict[str, object]:
    """What a model card says of the training."""
    config, train = setup.config, setup.config.train
    batch = train.batch_size * train.gradient_accumulation
    return {
        "Task": setup.base.task,
        "Trained on": f"{Path(config.data.train).name}: {setup.train}",
        "Schedule": f"{train.optimizer}, {train.scheduler} from {train.learning_rate:g}, {batch} examples a step",
        "Seed": train.seed,
    } | ({"Classes": ", ".join(setup.train.labels.names)} if setup.train.labels else {})


def _step_of(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _how_to_go_on(setup: Setup, folder: RunFolder) -> str:
    last = last_whole_checkpoint(setup.base.model, folder.path)
    if last is None:
        return "there is no checkpoint yet; set train.save_steps to have the first one earlier"
    return f"the last checkpoint is {last}; go on with --resume"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the loggers of the libraries below to errors: what a user should know, the run itself says."""
    loggers = [logging.getLogger(name) for name in ("transformers", "accelerate", "bitsandbytes", "datasets", "torch")]
    former = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, former, strict=True):
            logger.setLevel(level)
