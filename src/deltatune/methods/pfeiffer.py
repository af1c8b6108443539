r"""Pfeiffer adapters: one bottleneck a layer, behind the FFN (Pfeiffer et al. 2021, AdapterFusion,
https://arxiv.org/abs/2005.00247; MAD-X, https://arxiv.org/abs/2005.00052).

.. math:: h' = h + W_{up}\, \sigma(W_{down} h + b_{down}) + b_{up}

for the output h ``[d]`` of each FFN, before the residual is added and before any norm that follows. W_down is
``[m, d]`` with m = d / 16, W_up ``[d, m]`` and σ = ReLU. W_up and the biases start at zero, so a fresh delta is the
identity; ``init="normal"`` starts both matrices near zero. The task head of a model that has one trains too. Saved: the
bottlenecks and the head.

In models with a norm behind the residual x, such as BERT, AdapterHub's ``seq_bn`` reads norm(h + x) where this one
reads h, and h + x in others. Here it is h in every model, so that one definition serves all. AdapterHub's files do not
fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from deltatune.attachment.part import Part
from deltatune.methods.bottleneck import Adapter, Bottleneck

__all__ = ["Pfeiffer"]


@dataclass(frozen=True)
class Pfeiffer(Adapter):
    """Pfeiffer adapters. See the module's docstring for the equation and :class:`Adapter` for the bottleneck.

    Args:
        targets: behind which modules. Default: the last projection of each FFN.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "pfeiffer"

    targets: tuple[str, ...] = ("mlp_down",)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        return {site.name: Bottleneck(self, site.module, device) for site in self.sites(model, self.targets)}
