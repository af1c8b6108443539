"""Which base a delta was made on, kept with it and checked before it is put on another.

A digest of the weights would tell apart what is the same for a delta: one base in float32 and in bfloat16, quantised
or not. So the identity holds names, shapes, and a sample of values, compared within the coarser of the two
precisions. Matrices that may be quantised are left out of the sample; norms, biases and embeddings stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.layers import is_quantized
from deltatune.attachment.sites import BANK
from deltatune.errors import BaseMismatchError

__all__ = ["check_base", "identify"]

TENSORS, VALUES = 12, 8
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
        "architecture": type(model).__name__,
        "model_type": getattr(config, "model_type", None),
        "name_or_path": getattr(config, "_name_or_path", None) or None,
        "shapes": _digest(parameters, model),
        "dtype": str(next(iter(parameters.values())).dtype).removeprefix("torch.") if parameters else None,
        "sample": {name: _sample(parameters[name]) for name in _sampled(parameters)},
    }


def check_base(model: nn.Module, identity: dict[str, Any], *, without: Collection[str] = ()) -> None:
    """Refuse a model that is not the base of ``identity``.

    Raises:
        BaseMismatchError: another architecture, other shapes or other weights.
    """
    found = identify(model, without=without)
    for what in ("architecture", "shapes"):
        if identity.get(what) != found[what]:
            raise BaseMismatchError(
                f"base {what}: expected {identity.get(what)} ({identity.get('name_or_path') or 'unnamed'}), found "
                f"{found[what]} ({found['name_or_path'] or 'unnamed'}); load the base it was made on"
            )
    parameters = _own(model, without)
    for name, values in (identity.get("sample") or {}).items():
        present = parameters.get(name)
        if present is None or present.is_meta or not values:
            continue
        if not _same(torch.tensor(values, dtype=torch.float64), identity.get("dtype"), present):
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
        module = model.get_submodule(name.rpartition(".")[0])
        packed = is_quantized(module) and name.endswith(".weight")
        shape = (module.out_features, module.in_features) if packed else tuple(parameter.shape)
        lines.append(f"{name} {shape}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _sampled(parameters: dict[str, Tensor]) -> list[str]:
    """Evenly spaced among the parameters that stay dense when a base is quantised."""
    steady = [
        name for name, p in parameters.items() if p.is_floating_point() and not p.is_meta and _stays_dense(name, p)
    ]
    if len(steady) <= TENSORS:
        return steady
    return [steady[round(i * (len(steady) - 1) / (TENSORS - 1))] for i in range(TENSORS)]


def _stays_dense(name: str, parameter: Tensor) -> bool:
    return parameter.dim() == 1 or "embed" in name


def _sample(parameter: Tensor) -> list[float]:
    flat = parameter.detach().reshape(-1)
    places = torch.linspace(0, flat.numel() - 1, min(VALUES, flat.numel()), dtype=torch.float64).round().long()
    return [float(value) for value in flat[places.to(flat.device)].double().cpu()]


def _same(expected: Tensor, kept_as: str | None, present: Tensor) -> bool:
    found = torch.tensor(_sample(present), dtype=torch.float64)
    kept = getattr(torch, kept_as or "float32")
    coarse = max(kept, present.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    if len(expected) != len(found):
        return False
    if kept == present.dtype:
        return torch.equal(expected, found)
    return torch.allclose(expected, found, rtol=2 * torch.finfo(coarse).eps, atol=1e-7)
