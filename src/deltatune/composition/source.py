"""What a delta changes, read off the model it is attached to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import dense, is_adaptable, is_quantized, stored
from deltatune.attachment.merge import _names_by_parameter
from deltatune.attachment.part import Params, Part, Replacement
from deltatune.composition.ways import Change, Dense, LowRank
from deltatune.errors import ConfigError
from deltatune.methods.lora import LoRAPart
from deltatune.methods.shift import Shift

__all__ = ["Source", "read"]


@dataclass
class Source:
    """What one delta changes."""

    name: str
    matrices: dict[str, Change] = field(default_factory=dict)
    """By site."""
    biases: dict[str, Tensor] = field(default_factory=dict)
    """The changes of biases, by the name of their module, ``[out]``."""
    whole: dict[str, Params] = field(default_factory=dict)
    """The changes of all parameters of other modules, by the module's name."""

    @property
    def rank(self) -> int | None:
        """The largest rank, if every change of a matrix has one."""
        ranks = [len(change.A) if isinstance(change, LowRank) else None for change in self.matrices.values()]
        known = [rank for rank in ranks if rank is not None]
        return max(known) if known and len(known) == len(ranks) else None

    @property
    def rest(self) -> list[str]:
        """The modules of which something else than a matrix changes."""
        return [*self.biases, *self.whole]


@torch.no_grad()
def read(delta: Delta) -> Source:
    """What a delta changes, of whatever method it is.

    LoRA and its kin give their factors; any other delta gives the difference that merging it would make to the base's
    own weights, which is as large as the weight and made when it is asked for.

    Args:
        delta: attached to a model, which is :func:`deltatune.attachment.bank.bare` as long as the result is used.

    Raises:
        MergeError: the delta has no form as weights.
        ConfigError: it changes something that no LoRA can hold.
    """
    source, model = Source(delta.name), delta.model
    names = _names_by_parameter(model)
    for site, part in delta.items():
        module = model.get_submodule(site)
        if isinstance(part, Replacement):
            source.whole[site] = _differences(part.export(module), module.state_dict())
        elif isinstance(part, LoRAPart) and part.is_linear:
            A, B = (factor.detach() for factor in part.factors())
            source.matrices[site] = LowRank(A, B, part.scale)
            if part.shift is not None:
                source.biases[site] = part.shift.delta.detach()
        elif isinstance(part, Shift):
            source.biases[site] = part.delta.detach()
        else:
            _read_folded(source, model, site, part, names)
    return source


def _read_folded(source: Source, model: nn.Module, site: str, part: Part, names: Mapping[int, list[str]]) -> None:
    module = model.get_submodule(site)
    before = own_parameters(module)
    changed = _differences(part.fold(module, before, 1.0), before)
    changed = {name: change for name, change in changed.items() if bool(change.any())}
    if "weight" in changed and is_adaptable(module):
        del changed["weight"]
        tied = names[id(module.get_parameter("weight"))] if part.is_in_place else [f"{site}.weight"]
        for name in tied:  # what is trained in place acts wherever its parameter does
            other = name.rpartition(".")[0]
            place = model.get_submodule(other)
            make = partial(_folded_weight, module, part, place)
            source.matrices[other] = Dense(make, place.get_parameter("weight").device)
    if "bias" in changed and Shift.fits(module) and len(changed) == 1:
        source.biases[site] = changed["bias"]
    elif changed:
        if is_adaptable(module) or any(module.children()):
            raise ConfigError(
                f"{source.name}: expected a place in a LoRA for {site}.{next(iter(changed))}, found none; merge it"
            )
        source.whole[site] = changed


def own_parameters(module: nn.Module) -> Params:
    """A module's parameters in float32 at least, unpacked."""
    own = {name: p.detach() for name, p in module.named_parameters()}
    if is_quantized(module):
        own["weight"] = dense(module)
    return {name: p.to(torch.promote_types(p.dtype, torch.float32)) for name, p in own.items()}


@torch.no_grad()
def _folded_weight(module: nn.Module, part: Part, place: nn.Module) -> Tensor:
    before = own_parameters(module)
    return stored(place, part.fold(module, before, 1.0)["weight"] - before["weight"])


def _differences(after: Params, before: Mapping[str, Tensor]) -> Params:
    """What has changed, as a difference; what was not there before was zero."""
    return {
        name: value - before[name].to(value) if name in before else value.clone()
        for name, value in after.items()
        if value.is_floating_point()
    }
