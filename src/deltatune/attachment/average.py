"""Average trained deltas of one method into a new one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import add, check_name
from deltatune.attachment.part import Params
from deltatune.errors import AttachError

if TYPE_CHECKING:
    from deltatune.methods.base import Method

__all__ = ["average"]


def average(model: nn.Module, names: Iterable[str] | Mapping[str, float], *, name: str = "average") -> Delta:
    """Attach the weighted mean of deltas: each tensor of a file is the mean of theirs.

    The weights are scaled to a sum of one, so deltas that are equal average to themselves. The deltas stay attached and
    are turned off, since their mean stands in for them.

    For what acts in proportion to its tensors (biases, norms, IA³) this is the mean of the effects. For products and
    bottlenecks (LoRA, adapters) it is the mean of the factors, which is another function: good where the deltas started
    from the same values, as runs of one recipe do.

    Args:
        model: a model with the deltas attached.
        names: which: several names, or each with a weight.
        name: how to call the mean. Default: ``"average"``.

    Returns:
        The mean, on and frozen; ``unfreeze()`` trains it on.

    Raises:
        AttachError: the deltas differ in method, sites or shapes, the weights have no positive sum, or a name is
            unknown or taken.
    """
    model = unwrap(model)
    check_name(model, name)
    shares = _shares(names)
    sources = [bank_of(model)[each] for each in shares]
    for other in sources[1:]:
        _check_alike(sources[0], other)
    means = {
        site: _mean(site, [part.export(model.get_submodule(site)) for part in parts], list(shares.values()))
        for site, *parts in zip(sources[0].sites, *(source.parts for source in sources), strict=True)
    }
    for source in sources:
        source.disable()
    mean = Delta(name, sources[0].method, sources[0].method.bind(model))
    for site, part in mean.items():
        part.restore(model.get_submodule(site), means[site])
    return add(model, mean.freeze())


def _shares(names: Iterable[str] | Mapping[str, float]) -> dict[str, float]:
    """Weights that sum to one."""
    if not isinstance(names, Mapping):
        names = dict.fromkeys([names] if isinstance(names, str) else names, 1.0)
    weights = {name: float(weight) for name, weight in names.items()}
    total = sum(weights.values())
    if min(weights.values(), default=0) < 0 or not 0 < total < float("inf"):
        raise AttachError(f"average: expected weights from 0 with a positive sum, found {weights}; change them")
    return {name: weight / total for name, weight in weights.items()}


def _check_alike(first: Delta, other: Delta) -> None:
    if first.method != other.method:
        raise AttachError(
            f"average: expected deltas of one method, found {first.name!r} and {other.name!r} to differ in "
            f"{_difference(first.method, other.method)}; train them with equal settings"
        )
    shapes = [{site: part.shapes() for site, part in delta.items()} for delta in (first, other)]
    if shapes[0] != shapes[1]:
        raise AttachError(
            f"average: expected deltas of one shape, found {first.name!r} and {other.name!r} to differ; "
            "train them on the same sites"
        )


def _difference(first: Method, other: Method) -> str:
    if type(first) is not type(other):
        return f"the method ({first.key}, {other.key})"
    fields = [field.name for field in dataclasses.fields(first)]
    return ", ".join(name for name in fields if getattr(first, name) != getattr(other, name))


def _mean(site: str, exports: list[Params], shares: list[float]) -> Params:
    """The mean of the tensors of a site; what is no number to average, such as a position, must be the same in all."""
    means: Params = {}
    for name, first in exports[0].items():
        tensors = [export[name] for export in exports]
        if first.is_floating_point():
            means[name] = torch.stack([t * share for t, share in zip(tensors, shares, strict=True)]).sum(dim=0)
        elif all(torch.equal(tensor, first) for tensor in tensors):
            means[name] = first
        else:
            raise AttachError(
                f"average: expected {site}.{name} to be equal in all deltas, found it to differ; train from one start"
            )
    return means
