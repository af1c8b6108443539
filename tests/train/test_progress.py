"""What a user sees of a run, on a terminal and in a file."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from deltatune.sizes import size_text
from deltatune.train.progress import ProgressCallback, memory_bytes


def state(step: int, tokens: int) -> Any:
    return SimpleNamespace(global_step=step, max_steps=4, num_input_tokens_seen=tokens, epoch=step / 2)


def play(callback: ProgressCallback) -> None:
    callback.on_train_begin(None, state(0, 0), None)
    for step in (1, 2):
        callback.on_step_begin(None, state(step - 1, 100 * (step - 1)), None)
        callback.on_step_end(None, state(step, 100 * step), None)
    callback.on_log(None, state(2, 200), None, logs={"loss": 1.25, "learning_rate": 1e-3})
    callback.on_log(None, state(2, 200), None, logs={"eval_loss": 1.5, "eval_perplexity": 4.48})
    callback.on_log(None, state(2, 200), None, logs={"train_runtime": 3.0})


def test_lines_without_a_terminal() -> None:
    out = io.StringIO()
    play(ProgressCallback(Console(file=out, width=40)))
    first, second = out.getvalue().splitlines()
    assert first.startswith("step 2/4  epoch 1.00  loss 1.2500  lr 1.00e-03  ")
    assert "tokens/s" in first
    assert first.endswith(" left")
    assert second == "step 2/4  epoch 1.00  eval_loss 1.5000  eval_perplexity 4.4800"


def test_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    callback = ProgressCallback(Console(file=out, force_terminal=True, width=100))
    play(callback)
    callback.on_step_end(None, state(3, 300), None)
    assert callback.bar is not None
    callback.on_train_end(None, state(4, 400), None)
    shown = out.getvalue()
    assert all(part in shown for part in ("3/4", "loss 1.2500", "eval 1.5000", "tokens/s", "left"))
    callback.close()  # a second time, as after a failure
    assert callback.bar is None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (1.4e9, "1.4 GB"), (3e12, "3.00 TB")]
)
def test_sizes(count: float, text: str) -> None:
    assert size_text(count) == text


def test_memory_is_measured() -> None:
    assert memory_bytes() > 10**7
