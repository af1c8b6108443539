"""Which base a delta was made on, kept with it and checked before it is put on another.

A digest of the weights would tell apart what is the same for a delta: one base in float32 and in bfloat16, quantised
or not. So the identity holds names, shapes, and a sample of values, compared within the coarser of the two
precisions. Half of the sample are norms, biases and embeddings, which stay as they are when a base is quantised; the
rest is compared where it is not packed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.layers import features, is_quantized
from deltatune.attachment.shards import architecture, whole
from deltatune.attachment.sites import BANK
from deltatune.errors import BaseMismatchError

__all__ = ["check_base", "identify"]

TENSORS, VALUES = 16, 8
"""How many parameters are sampled, and how many values of each."""


def identify(model: nn.Module, *, without: Collection[str] = ()) -> dict[str, Any]:
    """The identity of a base as plain data.

    Args:
        model: the base, with or without deltas.
        without: modules whose values are not the base's own, such as a fresh head that the delta replaces.
    """
    parameters = _own(model, without)
    config = getattr(model, "config", None)
    return {
        "architecture": architecture(model),
        "model_type": getattr(config, "model_type", None),
        "name_or_path": getattr(config, "_name_or_path", None) or None,
        "without": sorted(without),
        "shapes": _digest(parameters, model),
        "sample": {name: _sample(parameters[name]) for name in _sampled(model, parameters)},
    }


def check_base(model: nn.Module, identity: dict[str, Any]) -> None:
    """Refuse a model that is not the base of ``identity``.

    Raises:
        BaseMismatchError: another architecture, other shapes or other weights.
    """
    without = identity["without"]
    found = identify(model, without=without)
    for what in ("architecture", "shapes"):
        if identity[what] != found[what]:
            raise BaseMismatchError(
                f"base {what}: expected {identity[what]} ({identity.get('name_or_path') or 'unnamed'}), found "
                f"{found[what]} ({found['name_or_path'] or 'unnamed'}); load the base it was made on"
            )
    parameters = _own(model, without)
    for name, kept in identity["sample"].items():
        present = parameters.get(name)
        if present is not None and _is_readable(model, name, present) and not _same(kept, _sample(present)):
            raise BaseMismatchError(
                f"base weights: {name} differs from the base the delta was made on "
                f"({identity.get('name_or_path') or 'unnamed'}); load that base, or pass check_base=False"
            )


def _own(model: nn.Module, without: Collection[str]) -> dict[str, Tensor]:
    """The base's own parameters by name."""
    outside = (BANK, *without)
    return {n: p for n, p in model.named_parameters() if not any(n.startswith(f"{module}.") for module in outside)}


def _digest(parameters: dict[str, Tensor], model: nn.Module) -> str:
    """Of names and shapes; a packed weight counts by its features, so quantising changes nothing."""
    lines = []
    for name, parameter in parameters.items():
        shape = tuple(parameter.shape)
        if _is_packed(model, name):
            shape = features(model.get_submodule(name.removesuffix(".weight")))[::-1]
        lines.append(f"{name} {shape}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _sampled(model: nn.Module, parameters: dict[str, Tensor]) -> list[str]:
    """Evenly spaced among the parameters that stay dense when a base is quantised, and among the others."""
    readable = [name for name, parameter in parameters.items() if _is_readable(model, name, parameter)]
    steady = [name for name in readable if parameters[name].dim() == 1 or "embed" in name]
    others = [name for name in readable if name not in set(steady)]
    return _spaced(steady, TENSORS // 2) + _spaced(others, TENSORS // 2)


def _spaced(names: list[str], number: int) -> list[str]:
    if len(names) <= number:
        return names
    return [names[round(i * (len(names) - 1) / (number - 1))] for i in range(number)]


def _is_readable(model: nn.Module, name: str, parameter: Tensor) -> bool:
    """Whether the values of a parameter are there, and are not packed."""
    there = parameter.is_floating_point() and not parameter.is_meta and parameter.numel() > 0
    return there and not _is_packed(model, name)


def _is_packed(model: nn.Module, name: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf == "weight" and is_quantized(model.get_submodule(owner))


def _sample(parameter: Tensor) -> dict[str, Any]:
    """Some values of a parameter, and the precision it is kept in."""
    flat = whole(parameter.detach()).reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, min(VALUES, flat.numel()), dtype=torch.float64).round().long()
    values = [float(value) for value in flat[places.to(flat.device)].cpu().double()]
    return {"dtype": str(parameter.dtype).removeprefix("torch."), "values": values}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two samples are of the same values, each rounded to its own precision."""
    if one["dtype"] == other["dtype"]:
        return bool(one["values"] == other["values"])
    step = max(torch.finfo(getattr(torch, sample["dtype"])).eps for sample in (one, other))
    left, right = (torch.tensor(sample["values"], dtype=torch.float64) for sample in (one, other))
    return left.shape == right.shape and torch.allclose(left, right, rtol=2 * step, atol=1e-7)
