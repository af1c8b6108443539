"""What a user sees of a run: a header, one sample, and then a bar, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import psutil
import torch
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback

import deltatune
from deltatune.sizes import size_text
from deltatune.train.preview import render_sample, render_sample_plain

if TYPE_CHECKING:
    from deltatune.attachment.summary import Summary
    from deltatune.train.setup import Setup

__all__ = ["Progress", "ProgressCallback", "memory_bytes", "print_header", "print_sample"]

_LONGEST_SAMPLE = 1500
"""Characters of the sample that are shown; beyond that its middle is left out."""


def print_header(console: Console, setup: Setup, summary: Summary, *, steps: int, world: int = 1) -> None:
    """Print what is about to be trained, in a box.

    Args:
        console: where to.
        setup: the run.
        summary: the parameters of its model.
        steps: how many steps the run will have.
        world: how many processes train together.
    """
    config, base = setup.config, setup.base
    train = config.train
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(overflow="fold")
    dtype = str(base.model.dtype).removeprefix("torch.")
    rows.add_row("base", f"{base.source}: {summary.architecture}, {summary.base_parameters:,} parameters, {dtype}")
    for row in summary.deltas:
        counted = f"{row.parameters:,} parameters at {row.sites} sites, {row.share:.3%} of the base"
        rows.add_row("delta", f"{row.name}: {row.method}, {counted}")
    rows.add_row("train", f"{config.data.train}: {setup.train}")
    if setup.eval is not None:
        held_out = f"{config.data.eval_share:.0%} of {config.data.train}"
        rows.add_row("eval", f"{config.data.eval or held_out}: {setup.eval}")
    if setup.train.labels is not None:
        rows.add_row("classes", ", ".join(setup.train.labels.names))
    batch = " × ".join(map(str, filter(lambda n: n > 1, (train.batch_size, train.gradient_accumulation, world)))) or "1"
    rows.add_row("steps", f"{steps:,} of {batch} examples, {train.scheduler} from {train.learning_rate:g}")
    rows.add_row("output", config.output)
    title = f"deltatune {deltatune.__version__}"
    console.print(Panel(rows, title=title, title_align="left", expand=False), highlight=False)


def print_sample(console: Console, setup: Setup) -> None:
    """Print one training example as the model sees it, what it learns from marked."""
    example, tokenizer = setup.train.examples[0], setup.base.tokenizer
    if console.is_terminal:
        shown, marked = render_sample(example, tokenizer), "what is learned is green"
    else:
        shown, marked = Text(render_sample_plain(example, tokenizer)), "what is learned stands in ⟦⟧"
    half = _LONGEST_SAMPLE // 2
    if len(shown) > _LONGEST_SAMPLE:
        shown = Text.assemble(shown[:half], "\n[…]\n", shown[-half:])
    console.print(Panel(shown, title=f"first example; {marked}", title_align="left", expand=False), highlight=False)


def memory_bytes() -> int:
    """The memory that matters: the most this process took on the GPU, or without one what it takes at present."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


class ProgressCallback(TrainerCallback):
    """Shows how a run goes on: a bar on a terminal, else a line for each log entry.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.loss = self.eval = ""
        self.seconds = self.began = 0.0
        self.tokens_before = self.steps_before = 0
        self.bar: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tokens_before, self.steps_before = state.num_input_tokens_seen, state.global_step
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[facts]}"),
                console=self.console,
            )
            self.bar.add_task("", total=state.max_steps, completed=state.global_step, facts="")
            self.bar.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.perf_counter() - self.began  # of training alone, without evaluating and saving
        if self.bar is not None:
            facts = "  ".join(filter(None, (self.loss, self.eval, *self._pace(state))))
            self.bar.update(self.bar.task_ids[0], completed=state.global_step, facts=facts)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "loss" in logs:
            self.loss = f"loss {logs['loss']:.4f}"
            self._line(state, self.loss, f"lr {logs.get('learning_rate', math.nan):.2e}", *self._pace(state))
        elif "eval_loss" in logs:
            self.eval = f"eval {logs['eval_loss']:.4f}"
            scores = [f"{n} {logs[n]:.4f}" for n in logs if n.startswith("eval_") and _is_score(logs[n])]
            self._line(state, *scores)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was; after a failure too."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _line(self, state: Any, *facts: str) -> None:
        if self.bar is None:
            step = f"step {state.global_step}/{state.max_steps}"
            self.console.print(
                "  ".join((step, f"epoch {state.epoch or 0:.2f}", *facts)), highlight=False, soft_wrap=True
            )

    def _pace(self, state: Any) -> tuple[str, ...]:
        """Tokens a second, memory, and the time that is left."""
        seconds = max(self.seconds, 1e-9)
        steps = state.global_step - self.steps_before
        rate = (state.num_input_tokens_seen - self.tokens_before) / seconds
        left = (state.max_steps - state.global_step) * seconds / max(steps, 1)
        return f"{rate:,.0f} tokens/s", size_text(memory_bytes()), f"{_clock(left)} left"


def _is_score(value: object) -> bool:
    return isinstance(value, float)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
