"""What several tests need: deltas that do something, and a full description of a model to compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
every_method = pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))


def families(*names: str) -> pytest.MarkDecorator:
    """Run a test for these families."""
    return pytest.mark.parametrize("family", [FAMILIES[name] for name in names], ids=names)


def attach(model: nn.Module, row: Row, family: Family, name: str = "default", seed: int | None = None) -> Delta:
    """Attach a method; with a seed, as if it had been trained."""
    torch.manual_seed(17)
    delta = dt.attach(model, row.make(family), name=name)
    return delta if seed is None else stir(delta, seed)


@torch.no_grad()
def stir(delta: Delta, seed: int = 0, size: float = 0.2) -> Delta:
    """Move the trainable tensors to random places, so that the delta is no longer the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in delta.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=size)
    return delta


def train_step(model: nn.Module, family: Family, rate: float = 0.05) -> float:
    """One step of plain gradient descent on everything trainable; returns the loss before it."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = family.loss(model)
    optimizer = torch.optim.SGD(parameters, lr=rate)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that are there, by parameter name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: Tensor, expected: Tensor, share: float = 1e-5) -> None:
    """Equal up to a share of the largest number: what rounding leaves of sums that are taken in another order."""
    assert found.shape == expected.shape
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, atol=share * largest, rtol=share)


def assert_same_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything by which two models can be told apart, except the values of their tensors."""
    config = getattr(model, "config", None)
    state = model.state_dict()
    return {
        "class": type(model),
        "modules": {name: type(module) for name, module in model.named_modules()},
        "attributes": {name: set(vars(module)) for name, module in model.named_modules()},
        "training": {name: module.training for name, module in model.named_modules()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "objects": {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)},
        "keys": list(state),
        "metadata": copy.deepcopy(getattr(state, "_metadata", None)),
        "hooks": {place: len(hooks) for place, hooks in _hooks(model)},
        "config": config.to_dict() if hasattr(config, "to_dict") else dict(config or {}),
    }


def values(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer of the base."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors if not name.startswith("deltatune.")}


def assert_bit_identical(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(_bytes(found[name]), _bytes(tensor)), name


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _hooks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if "hooks" in attribute and hasattr(value, "__len__"):
                yield f"{name}.{attribute}", value
