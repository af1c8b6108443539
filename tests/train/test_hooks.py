"""What is said around an optimiser's step."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deltatune as dt


class ReadsAWeight(nn.Module):
    """As attention modules do that hand their projections' weights to one function."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.called(x), self.read.weight)


def two_steps(model: nn.Module) -> list[str]:
    optimizer = torch.optim.SGD(dt.parameter_groups(model, 0.1))
    dt.on_step(model, optimizer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [str(each.message) for each in told]


def test_a_site_that_is_read_and_never_called_is_named_once() -> None:
    model = ReadsAWeight()
    dt.attach(model, dt.LoRA(r=2, targets=["called", "read"]))
    (told,) = two_steps(model)
    assert "expected gradients at 2 sites, found none at 1 in the first step, such as read;" in told


@pytest.mark.parametrize("targets", [["called"], ["called", "read"]])
def test_nothing_is_said_where_every_site_learns_or_was_frozen(targets: list[str]) -> None:
    model = ReadsAWeight()
    delta = dt.attach(model, dt.LoRA(r=2, targets=targets))
    for name, part in delta.items():
        part.requires_grad_(name == "called")
    assert two_steps(model) == []


def test_nothing_is_said_of_a_delta_that_is_off() -> None:
    model = ReadsAWeight()
    dt.attach(model, dt.LoRA(r=2, targets=["called"]), name="on")
    dt.attach(model, dt.LoRA(r=2, targets=["called", "read"]), name="off").disable()
    assert two_steps(model) == []


def test_a_step_that_the_scaler_skips_is_none_of_the_methods() -> None:
    model = ReadsAWeight()
    delta = dt.attach(model, dt.AdaLoRA(targets=["called"]))
    optimizer = torch.optim.SGD(dt.parameter_groups(model, 0.1), fused=True)
    dt.on_step(model, optimizer, total_steps=10)
    for parameter in delta.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    before = {name: value.clone() for name, value in delta.state_dict().items()}
    optimizer.found_inf = torch.ones(())  # as torch.amp.GradScaler tells a fused optimiser, which then writes nothing
    optimizer.step()
    assert int(delta.steps) == 0
    assert all(torch.equal(value, before[name]) for name, value in delta.state_dict().items())
