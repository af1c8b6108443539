"""The examples run, shortened, on the real models."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.models


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_loop_of_your_own_learns() -> None:
    losses = example("plain_loop").main(steps=4)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_trl_trains_a_delta_and_runs_its_hooks() -> None:
    pytest.importorskip("trl")
    losses = example("trl_sft").main(steps=2)  # checks the hooks itself
    assert len(losses) == 2
