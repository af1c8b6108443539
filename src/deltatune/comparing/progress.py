"""What a user sees while a comparison runs: a live line on a terminal, and a line for each run that is over."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deltatune.comparing.trials import Trial
from deltatune.train.config import TrainSpec
from deltatune.train.folder import RunFolder

__all__ = ["ComparisonProgress"]


class ComparisonProgress:
    """A context that shows how a comparison goes on.

    Args:
        console: where to.
        variants: how many rows there will be.
        train: the schedule of the runs.
    """

    def __init__(self, console: Console, variants: int, train: TrainSpec) -> None:
        self.console, self.variants, self.train = console, variants, train
        self.number = 0
        """Of the present variant, from 1."""
        self.text = ""
        self.bar: Progress | None = None

    def variant(self) -> None:
        """The next variant begins."""
        self.number += 1

    def begin(self, trial: Trial) -> None:
        """A run begins, or is looked up if it was done before."""
        what = "search" if trial.searching else f"seed {trial.seed}"
        self.text = f"{trial.variant.label}, {what}, learning rate {trial.learning_rate:g}"
        self._show("starting", 0.0)

    def watch(self, folder: Path) -> None:
        """See how far the run in a folder is."""
        log = RunFolder(folder).read_log()
        if not log:
            return
        losses = [entry["loss"] for entry in log if entry.get("loss") is not None]
        share = (
            log[-1]["step"] / self.train.max_steps
            if self.train.max_steps
            else (log[-1].get("epoch") or 0.0) / self.train.epochs
        )
        facts = f"step {log[-1]['step']}" + (f", loss {losses[-1]:.3f}" if losses else "")
        self._show(facts, min(share, 0.999))  # at 1 the clock would stop

    def line(self, what: str) -> None:
        """A run is over."""
        self.console.print(
            f"[{self.number}/{self.variants}] {self.text}: {what}", highlight=False, markup=False, soft_wrap=True
        )

    def __enter__(self) -> ComparisonProgress:
        if self.console.is_terminal:
            columns = ("{task.fields[place]}", BarColumn(bar_width=20), "{task.description}", TimeElapsedColumn())
            self.bar = Progress(
                *(TextColumn(each, markup=False) if isinstance(each, str) else each for each in columns),
                console=self.console,
                transient=True,
            )
            self.bar.add_task("starting", total=1.0, place="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _show(self, facts: str, share: float) -> None:
        if self.bar is not None:
            place = f"{self.number}/{self.variants}"
            self.bar.update(self.bar.task_ids[0], description=f"{self.text}: {facts}", completed=share, place=place)
