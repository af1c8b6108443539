"""What the methods' own tests share: float64 copies to compare with, a short training run, and peers' files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import deltatune as dt
from tests.models.families import Family


def doubled(family: Family) -> tuple[nn.Module, dict[str, Tensor]]:
    """A float64 model and its inputs."""
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in family.inputs().items()}
    return family.model().double(), inputs


def answers(family: Family, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return family.answer(model(**inputs))


def backward(family: Family, model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Gradients of a loss that tells all entries of the answer apart."""
    answer = answers(family, model, inputs)
    weights = torch.linspace(-1, 1, answer.numel(), dtype=torch.float64).to(answer.dtype).view(answer.shape)
    (answer * weights).sum().backward()


def losses(family: Family, model: nn.Module, *, lr: float, steps: int = 15) -> tuple[float, float]:
    """The loss before and after a few steps of Adam on what the model's deltas train."""
    optimizer = torch.optim.Adam(dt.parameter_groups(model, lr))
    dt.on_step(model, optimizer, total_steps=steps)
    model.train()
    before = family.loss(model).item()
    for _ in range(steps):
        optimizer.zero_grad()
        family.loss(model).backward()
        optimizer.step()
    return before, family.loss(model.eval()).item()


def with_peft(family: Family, config: Any) -> Any:
    """A fresh base with a delta of Hugging Face PEFT: a new one of a config of theirs, or the one in a folder."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its remarks on kinds of layers and tasks are not under test
        if isinstance(config, Path):
            return peft.PeftModel.from_pretrained(family.model(), str(config), is_trainable=True).eval()
        return peft.get_peft_model(family.model(), config).eval()


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
