"""A plain LoRA with given factors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment.bank import bare
from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Params, Replacement
from deltatune.attachment.sites import base_modules
from deltatune.composition.rules import Choice
from deltatune.composition.source import Source
from deltatune.composition.truncation import Loss
from deltatune.composition.ways import Merged, Way, combine
from deltatune.errors import ConfigError
from deltatune.io.peft_layout import short_names
from deltatune.methods.lora import LoRA, LoRAPart
from deltatune.methods.shift import Shift

__all__ = ["Mixed", "build", "mix", "padded", "write_factors"]


class Mixed:
    """Several deltas' changes as one.

    Args:
        matrices: by site.
        biases: by module.
        whole: by module.
    """

    def __init__(self, matrices: dict[str, Merged], biases: dict[str, Tensor], whole: dict[str, Params]) -> None:
        self.matrices, self.biases, self.whole = matrices, biases, whole
        self.rank = max(1, *(len(merged.A) for merged in matrices.values()))
        """That of every site, those of lower rank padded with zeros, since servers want one for all."""

    @property
    def losses(self) -> dict[str, Loss]:
        """How far each site is from what it stands for."""
        return {site: merged.loss for site, merged in self.matrices.items()}

    @property
    def bias(self) -> str:
        """LoRA's setting for the biases that are here."""
        return "none" if not self.biases else "lora_only" if self.biases.keys() <= self.matrices.keys() else "all"


def mix(
    sources: Sequence[Source],
    weights: Sequence[float],
    way: Way,
    rank: int | None,
    choices: Mapping[str, Choice],
    *,
    measured: bool = True,
) -> Mixed:
    """Combine deltas site by site; what changes beside matrices is added up with the weights, whatever the way.

    Args:
        sources: what each delta changes.
        weights: of each.
        way: for the matrices.
        rank: for a way on effects.
        choices: the settings of the rule at each site.
        measured: whether to measure how far each site is from what it stands for. Default: true.

    Raises:
        ConfigError: one delta trains a module whole in which another has a site.
    """
    matrices = {}
    for site in dict.fromkeys(site for source in sources for site in source.matrices):
        acting = [(s.matrices[site], weight) for s, weight in zip(sources, weights, strict=True) if site in s.matrices]
        changes, shares = zip(*acting, strict=True)
        matrices[site] = combine(site, way, changes, shares, rank, choices[site], measured=measured)
    if not matrices:
        raise ConfigError("compose: expected deltas that change matrices, found none; there is no LoRA to make")
    biases = _summed([({"bias": s.biases}, w) for s, w in zip(sources, weights, strict=True)]).get("bias", {})
    whole = _summed([(source.whole, weight) for source, weight in zip(sources, weights, strict=True)])
    _check_apart([*matrices, *biases], whole)
    return Mixed(matrices, biases, whole)


def _summed(changes: Sequence[tuple[Mapping[str, Params], float]]) -> dict[str, Params]:
    total: dict[str, Params] = {}
    for modules, weight in changes:
        for module, tensors in modules.items():
            into = total.setdefault(module, {})
            for name, tensor in tensors.items():
                into[name] = into[name] + weight * tensor if name in into else weight * tensor
    return total


def _check_apart(sites: Collection[str], whole: Collection[str]) -> None:
    for module in whole:
        others = [*sites, *(other for other in whole if other != module)]
        inside = next((site for site in others if site == module or site.startswith(f"{module}.")), None)
        if inside is not None:
            raise ConfigError(
                f"{inside}: expected one way to train it, found {module} trained whole too; leave one of them out"
            )


@torch.no_grad()
def build(model: nn.Module, name: str, mixed: Mixed, device: torch.device | None = None) -> Delta:
    """The LoRA that makes these changes to ``model``; not attached yet.

    Args:
        model: the base; biases that change and modules trained whole must have their values.
        name: the delta's.
        mixed: the changes.
        device: where the tensors are made. Default: each on its site's device.
    """
    sites = [site for site, _ in base_modules(model) if site in mixed.matrices]
    method = _method(tuple(short_names(model, sites)), mixed)
    with bare(model):
        parts = method.bind(model, device)
        if {site for site, part in parts.items() if isinstance(part, LoRAPart)} != set(sites):
            method = _method(tuple(sites), mixed)  # a short name means more here
            parts = method.bind(model, device)
        for site, part in parts.items():
            shift = part if isinstance(part, Shift) else getattr(part, "shift", None)
            if isinstance(shift, Shift) and site in mixed.biases:
                shift.delta.copy_(mixed.biases[site])
            if isinstance(part, Replacement):
                own = model.get_submodule(site).state_dict()
                for key, tensor in part.copy.state_dict().items():
                    if key in mixed.whole[site]:
                        tensor.copy_(own[key].to(tensor) + mixed.whole[site][key].to(tensor))
                    else:
                        tensor.copy_(own[key])
    delta = Delta(name, method, parts)
    write_factors(delta, mixed)
    return delta


@torch.no_grad()
def write_factors(delta: Delta, mixed: Mixed) -> None:
    """Put other factors into a delta that :func:`build` made; their rank may not have grown."""
    for site, part in delta.items():
        if isinstance(part, LoRAPart):
            A, B = padded(mixed.matrices[site], part.r)
            part.lora_A.copy_(A)
            part.lora_B.copy_(B)


def _method(targets: tuple[str, ...], mixed: Mixed) -> LoRA:
    return LoRA(
        targets=targets,
        r=mixed.rank,
        alpha=mixed.rank,
        bias=mixed.bias,  # type: ignore[arg-type]  # one of its choices
        train_also=tuple(mixed.whole),
    )


def padded(merged: Merged, rank: int) -> tuple[Tensor, Tensor]:
    """A and B at that rank, with zeros where nothing is."""
    missing = rank - len(merged.A)
    return F.pad(merged.A, (0, 0, 0, missing)), F.pad(merged.B, (0, missing))
