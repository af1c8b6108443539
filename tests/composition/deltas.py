"""Deltas to compose, and the dense changes they should make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import stored
from deltatune.methods.base import Method
from deltatune.methods.lora import LoRAPart
from tests.models.families import FAMILIES, Family
from tests.models.tools import stir

LLAMA = FAMILIES["llama"]

# Of different ranks, alphas, scales and sites.
TWO: dict[str, Method] = {
    "a": dt.LoRA(r=4, alpha=8, targets=("query", "value"), train_also=()),
    "b": dt.LoRA(r=2, alpha=3, targets=("query", "mlp_down"), rslora=True, train_also=()),
}
ALIKE: dict[str, Method] = {name: dt.LoRA(r=3, alpha=6, train_also=()) for name in "ab"}


def attached(
    methods: Mapping[str, Method] = TWO, family: Family = LLAMA, dtype: torch.dtype = torch.float64
) -> nn.Module:
    """A model with deltas that are as if they had been trained, all on."""
    model = family.model().to(dtype)
    for seed, (name, method) in enumerate(methods.items()):
        torch.manual_seed(seed)
        stir(dt.attach(model, method, name=name), seed)
    return model


def saved(folder: Path, methods: Mapping[str, Method] = TWO, family: Family = LLAMA) -> dict[str, str]:
    """The same in folders: each delta's name and its folder."""
    model = attached(methods, family, torch.float32)
    for name in methods:
        dt.save(dt.deltas(model)[name], folder / name)
    return {name: str(folder / name) for name in methods}


@torch.no_grad()
def changes(delta: Delta) -> dict[str, Tensor]:
    """The change of each matrix, ``[out, in]``."""
    found = {}
    for site, part in delta.items():
        if isinstance(part, LoRAPart):
            module = delta.model.get_submodule(site)
            weight = module.get_parameter("weight").detach().double()
            own = {name: p.detach().double() for name, p in module.named_parameters()}
            found[site] = stored(module, part.fold(module, own, 1.0)["weight"] - weight)
    return found


def summed(model: nn.Module, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The weighted sum of what deltas do, by site."""
    total: dict[str, Tensor] = {}
    for name, weight in weights.items():
        for site, change in changes(dt.deltas(model)[name]).items():
            total[site] = total.get(site, torch.zeros_like(change)) + weight * change
    return total


def assert_same_changes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys()
    for site, change in expected.items():
        size = float(change.abs().max())
        torch.testing.assert_close(found[site], change, rtol=tolerance, atol=tolerance * max(size, 1e-3))
