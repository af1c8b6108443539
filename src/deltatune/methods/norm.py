r"""Norm tuning: train the weights and biases of the norms (Zhao et al. 2023, https://arxiv.org/abs/2312.11420).

.. math:: y = (w_0 + \delta_w) \odot \hat{x} + (b_0 + \delta_b)

with x̂ the normalised input, w₀ and b₀ ``[d]`` frozen, δ_w and δ_b ``[d]`` trained (an RMS norm has no b). They start at
zero, so a fresh delta is the identity. Saved: w₀ + δ_w and b₀ + δ_b of each norm, in Hugging Face PEFT's layout for
``LN_TUNING``.

A norm is affine in its parameters, so what they add is ``norm(x; δ)``, less ``norm(x; 0)`` where that is not zero:
Gemma's norms multiply by 1 + w. Kept as a change, small steps are not rounded away next to a half-precision w₀.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import is_channels_first
from deltatune.attachment.part import Params, Part, bare_copy, master_dtype
from deltatune.attachment.shards import whole
from deltatune.attachment.sites import find_sites
from deltatune.io.peft_layout import as_modules, as_targets
from deltatune.methods.base import Method, check

__all__ = ["Norm", "NormPart"]


@dataclass(frozen=True)
class Norm(Method):
    """Norm tuning. See the module's docstring for the equation and :class:`Method` for the common settings.

    Args:
        targets: which norms. Default: ``("norm",)``, all of them.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "norm"

    targets: tuple[str, ...] = ("norm",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.targets) > 0, "norm.targets", "at least one target", self.targets, 'use ("norm",)')

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        kind: dict[str, Any] = {"fits": NormPart.fits, "expected": "a norm with weights"}
        sites = find_sites(model, self.targets, layers=self.layers, exclude=self.exclude, **kind)
        return {site.name: NormPart(site.module, device) for site in sites}

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        sites = [site for site, part in delta.items() if isinstance(part, NormPart)]
        return {"peft_type": "LN_TUNING", "target_modules": sites, "exclude_modules": None}

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> Norm | None:
        if config.get("peft_type") != "LN_TUNING":
            return None
        targets = as_targets(config.get("target_modules"))
        check(len(targets) > 0, "adapter_config.json: target_modules", "names or a pattern", None)
        return cls(
            targets=targets,
            exclude=as_targets(config.get("exclude_modules") or ()),
            train_also=as_modules(config.get("modules_to_save")),
        )


class NormPart(Part):
    """δ_w and δ_b of one norm, as the parameters of a copy of it."""

    is_linear = True

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        super().__init__()
        self.offset = _answers_without_weights(module)
        self.delta = bare_copy(module)
        for name, old in module.named_parameters():
            options: dict[str, Any] = {"dtype": master_dtype(old.dtype), "device": device or old.device}
            setattr(self.delta, name, nn.Parameter(torch.zeros(old.shape, **options)))

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` is a norm of one input, affine in parameters of its own.

        A batch norm's running statistics are none, and the gate that a gated norm is called with is a second input.
        """
        is_leaf = not any(module.children()) and not any(True for _ in module.buffers())
        is_norm = "norm" in type(module).__name__.lower() and len(inspect.signature(module.forward).parameters) == 1
        return is_leaf and is_norm and any(True for _ in module.parameters())

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        change = {name: delta.to(out.dtype) for name, delta in self.delta.named_parameters()}
        added = self._norm(x, change)
        if self.offset:  # the difference first: nothing at the start, and small changes are not lost next to the output
            added = added - self._norm(x, {name: torch.zeros_like(delta) for name, delta in change.items()})
        return out + added

    def _norm(self, x: Tensor, parameters: Params) -> Tensor:
        return functional_call(self.delta, parameters, (x,))  # type: ignore[no-any-return]

    def shapes(self) -> dict[str, torch.Size]:
        return {PREFIX + name: delta.shape for name, delta in self.delta.named_parameters()}

    def export(self, module: nn.Module) -> Params:
        old = dict(module.named_parameters())
        return {PREFIX + n: d.detach() + whole(old[n].detach()).to(d) for n, d in self.delta.named_parameters()}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        old = dict(module.named_parameters())
        for name, delta in self.delta.named_parameters():
            delta.copy_(tensors[PREFIX + name].to(delta) - whole(old[name].detach()).to(delta))

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        changes = dict(self.delta.named_parameters())
        return {name: value + weight * changes[name].detach().to(value) for name, value in params.items()}


PREFIX = "ln_tuning_layers."


@torch.no_grad()
def _answers_without_weights(module: nn.Module) -> bool:
    """Whether the norm answers anything but zero when its parameters are zero."""
    old = dict(module.named_parameters())
    if any(parameter.is_meta for parameter in old.values()):
        return False
    largest = max(old.values(), key=torch.numel)
    x = torch.linspace(-1, 1, largest.numel()).view(1, *largest.shape).to(largest)
    if is_channels_first(module):
        x = x[..., None, None]
    zeros = {name: torch.zeros_like(parameter) for name, parameter in old.items()}
    return bool(functional_call(bare_copy(module), zeros, (x,)).any())
