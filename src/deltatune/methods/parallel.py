r"""Parallel adapters: a bottleneck beside the FFN (He et al. 2022, https://arxiv.org/abs/2110.04366, sections 3, 4).

.. math:: y = \mathrm{FFN}(x) + s\, \big(W_{up}\, \sigma(W_{down} x + b_{down}) + b_{up}\big)

for the input x ``[d]`` of each FFN. W_down is ``[m, d]`` with m = d / 2, W_up ``[d, m]``, σ = ReLU and s = 4. W_down
starts Kaiming-uniform, W_up and the biases at zero, so a fresh delta is the identity. The task head of a model that has
one trains too. Saved: the bottlenecks and the head.

x is the input of the FFN's first projection. One part notes it there, and one adds to the output of the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from deltatune.attachment.layers import features
from deltatune.attachment.part import Params, Part
from deltatune.attachment.sites import Site, find_sites
from deltatune.errors import AttachError, MergeError, SiteError
from deltatune.methods.base import check
from deltatune.methods.bottleneck import UNMERGED, Adapter, Bottleneck

__all__ = ["Parallel"]


@dataclass(frozen=True)
class Parallel(Adapter):
    """Parallel adapters. See the module's docstring for the equation and :class:`Adapter` for the bottleneck.

    Args:
        targets: whose output to add to. Default: the last projection of each FFN.
        reduction: the width of x over the size of the bottleneck, where ``m`` is not given. Default: 2.
        inputs: whose input is x; each target takes the one nearest to it in the module tree. Default: the first
            projection of each FFN.
        scale: s. Default: 4.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "parallel"

    targets: tuple[str, ...] = ("mlp_down",)
    reduction: float = 2
    inputs: tuple[str, ...] = ("mlp_up",)
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "inputs", (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs))
        check(len(self.inputs) > 0, "parallel.inputs", "at least one target", self.inputs)
        check(self.scale > 0, "parallel.scale", "a number above 0", self.scale)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        lasts, firsts = self.sites(model, self.targets), find_sites(model, self.inputs, shared=True)
        made: dict[str, Part] = {}
        for last in lasts:
            first = _nearest(last, firsts)
            if first.name in made or first.name == last.name:
                raise SiteError(
                    f"parallel.inputs {list(self.inputs)}: expected one for each target, found {first.name!r} nearest "
                    "to two; name the first projection of each FFN"
                )
            seen = Seen()
            made[first.name] = Look(seen)
            made[last.name] = Beside(self, last.module, device, seen=seen, width=features(first.module)[0])
        return made


class Seen:
    """What one part notes for another of the same delta, within one call of the layer."""

    x: Tensor | None = None

    def take(self) -> Tensor:
        """The note; it is kept no longer than needed."""
        x, self.x = self.x, None
        if x is None:
            raise AttachError(
                "parallel: expected the FFN's first projection to run before its last, found none; set inputs"
            )
        return x

    def __deepcopy__(self, memo: dict[int, object]) -> Seen:
        return Seen()


class Look(Part):
    """Notes x at the FFN's first projection and changes nothing."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        self.seen.x = x
        return out

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        raise MergeError(UNMERGED)


class Beside(Bottleneck):
    """``out + s A(x)`` with the x that was noted."""

    def __init__(
        self, method: Parallel, module: nn.Module, device: torch.device | None = None, *, seen: Seen, width: int
    ) -> None:
        super().__init__(method, module, device, width=width)
        self.seen, self.scale = seen, method.scale

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return torch.add(out, self.change(self.seen.take().to(out)), alpha=self.scale)


def _nearest(site: Site, among: Sequence[Site]) -> Site:
    """The one that shares the longest part of its name with ``site``."""
    path = site.name.split(".")

    def shared(other: Site) -> int:
        return next((i for i, (a, b) in enumerate(zip(path, other.name.split("."), strict=False)) if a != b), len(path))

    return max(among, key=shared)
