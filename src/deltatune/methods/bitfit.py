r"""BitFit: train the biases and nothing else (Zaken et al. 2021, https://arxiv.org/abs/2106.10199, section 3).

.. math:: y = W_0 x + b_0 + \delta

with W₀ and b₀ frozen and δ ``[out]`` trained, for every bias term b₀ of the base, those of its norms included. δ
starts at zero, so a fresh delta is the identity; the paper's b is b₀ + δ. The task head of a model that has one trains
whole, as in the paper. Saved: b₀ + δ of each module.

The paper trains with a learning rate of about 1e-3, against 1e-5 for full fine-tuning, for 16 epochs. It finds that two
kinds of bias, ``targets=("query", "mlp_up")``, half of them all, lose little.

LLaMA, T5 and others have no biases or few. There ``add_missing`` gives linear layers one that starts at zero. This goes
beyond the paper; merged, such a model has parameters that its class does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from deltatune.attachment.layers import is_linear
from deltatune.attachment.part import Part
from deltatune.attachment.sites import find_sites, head_modules
from deltatune.methods.base import Method, check
from deltatune.methods.shift import Shift

__all__ = ["BitFit"]


@dataclass(frozen=True)
class BitFit(Method):
    """Bias-term fine-tuning. See the module's docstring for the equation and :class:`Method` for the common settings.

    Args:
        targets: whose biases to train, such as ``("query", "mlp_up", "norm")``. Default: ``("all",)``, every module
            with a bias outside the task head.
        add_missing: give linear layers among the targets a bias where they have none, but for the head. Default: false.

    Raises:
        ConfigError: a setting is out of range.
        SiteError: no target has a bias, on attaching.
    """

    key: ClassVar[str] = "bitfit"

    targets: tuple[str, ...] = ("all",)
    add_missing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.targets) > 0, "bitfit.targets", "at least one target", self.targets, 'use ("all",)')
        check(isinstance(self.add_missing, bool), "bitfit.add_missing", "true or false", self.add_missing)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        heads = head_modules(model) if self.add_missing else set()  # a bias for each word would be no small change
        sites = find_sites(
            model,
            self.targets,
            layers=self.layers,
            exclude=self.exclude,
            fits=lambda module: Shift.fits(module) or (self.add_missing and is_linear(module) and module not in heads),
            expected="a module with a bias, or add_missing=True to give linear layers one",
        )
        return {site.name: Shift(site.module, device) for site in sites}
