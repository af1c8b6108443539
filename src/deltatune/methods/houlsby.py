r"""Houlsby adapters: a bottleneck behind attention and behind the FFN (Houlsby et al. 2019,
https://arxiv.org/abs/1902.00751, section 2.1).

.. math:: h' = h + W_{up}\, \sigma(W_{down} h + b_{down}) + b_{up}

for the output h ``[d]`` of each attention and each FFN, before the residual is added and before any norm that follows.
W_down is ``[m, d]`` and W_up ``[d, m]``. W_up and the biases start at zero, so a fresh delta is the identity;
``init="normal"`` starts both matrices near zero as the paper does. As in the paper, the norms train too, and the task
head of a model that has one. Saved: the bottlenecks, the norms and the head.

The paper takes σ = GELU and m = 64 with a learning rate of 3e-4, and finds m from 2 to 256 by task. It puts the adapter
behind the sublayer's dropout; here it stands before that, which differs in training only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from deltatune.attachment.part import Part
from deltatune.methods.base import check
from deltatune.methods.bottleneck import Adapter, Bottleneck
from deltatune.methods.norm import Norm

__all__ = ["Houlsby"]


@dataclass(frozen=True)
class Houlsby(Adapter):
    """Houlsby adapters. See the module's docstring for the equation and :class:`Adapter` for the bottleneck.

    Args:
        targets: behind which modules. Default: the last projections of attention and FFN.
        m: the size of the bottleneck, or ``None`` to have it by ``reduction``. Default: 64.
        activation: σ: ``"relu"``, ``"gelu"``, ``"silu"`` or ``"tanh"``. Default: GELU.
        train_norms: train the norms of the same layers beside the adapters. Default: true.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "houlsby"

    targets: tuple[str, ...] = ("attention_output", "mlp_down")
    m: int | None = 64
    activation: str = "gelu"
    train_norms: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(isinstance(self.train_norms, bool), "houlsby.train_norms", "true or false", self.train_norms)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        sites = self.sites(model, self.targets)
        adapters: dict[str, Part] = {site.name: Bottleneck(self, site.module, device) for site in sites}
        norms = Norm(layers=self.layers, exclude=self.exclude).parts(model, device) if self.train_norms else {}
        return adapters | norms
