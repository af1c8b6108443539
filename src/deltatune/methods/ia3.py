r"""IA³: scale keys, values and the FFN's hidden activations (Liu et al. 2022, https://arxiv.org/abs/2205.05638, 3.3).

.. math:: y = l \odot (W_0 x), \qquad y_{ff} = W_0 (l_{ff} \odot x)

with W₀ ``[out, in]`` frozen, l ``[out]`` trained at key and value projections, and l_ff ``[in]`` at the FFN's last
projection, whose input is what the paper scales. All start at one, so a fresh delta is the identity. Saved: the
vectors, in Hugging Face PEFT's layout: ``ia3_l``, ``[out, 1]`` or ``[1, in]``.

What is trained is δ = l − 1 and what is computed y + δ ⊙ y: in bfloat16, l could only move in steps of 1/128.

The paper trains with Adafactor at a learning rate of 3e-3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import features, is_linear, stored
from deltatune.attachment.part import Params, Part, master_dtype
from deltatune.attachment.sites import find_sites
from deltatune.io.peft_layout import as_modules, as_targets, short_names
from deltatune.methods.base import Method, check

__all__ = ["IA3"]


@dataclass(frozen=True)
class IA3(Method):
    """IA³. See the module's docstring for the equation and :class:`Method` for the common settings.

    Args:
        targets: what to scale. Default: keys, values and the FFN's last projection, as in the paper.
        feedforward: those of the targets whose input is scaled instead of their output. Default: the FFN's last
            projection.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "ia3"

    targets: tuple[str, ...] = ("key", "value", "mlp_down")
    feedforward: tuple[str, ...] = ("mlp_down",)

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (self.feedforward,) if isinstance(self.feedforward, str) else tuple(self.feedforward)
        object.__setattr__(self, "feedforward", names)
        check(len(self.targets) > 0, "ia3.targets", "at least one target", self.targets)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        kind: dict[str, Any] = {"fits": is_linear, "expected": "Linear, Conv1D, Linear4bit or Linear8bitLt"}
        sites = find_sites(model, self.targets, layers=self.layers, exclude=self.exclude, **kind)
        inputs = {site.name for site in find_sites(model, self.feedforward, **kind)} if self.feedforward else set()
        return {site.name: IA3Part(site.module, site.name in inputs, device) for site in sites}

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        parts = {site: part for site, part in delta.items() if isinstance(part, IA3Part)}
        inputs = [site for site, part in parts.items() if part.changes_input]
        return {
            "peft_type": "IA3",
            "target_modules": list(parts),
            "feedforward_modules": _feedforward_names(model, list(parts), inputs),
            "exclude_modules": None,
            "fan_in_fan_out": any(
                stored(model.get_submodule(site), torch.empty(1, 2)).shape != (1, 2) for site in parts
            ),
            "init_ia3_weights": True,
        }

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> IA3 | None:
        if config.get("peft_type") != "IA3":
            return None
        targets = as_targets(config.get("target_modules"))
        check(len(targets) > 0, "adapter_config.json: target_modules", "names or a pattern", None)
        return cls(
            targets=targets,
            feedforward=as_targets(config.get("feedforward_modules") or ()),
            exclude=as_targets(config.get("exclude_modules") or ()),
            train_also=as_modules(config.get("modules_to_save")),
        )


class IA3Part(Part):
    """l = 1 + δ of one site, over its output or its input."""

    def __init__(self, module: nn.Module, scales_input: bool, device: torch.device | None = None) -> None:
        super().__init__()
        weight = module.get_parameter("weight")
        size = features(module)[0 if scales_input else 1]
        self.changes_input = scales_input
        self.acts_on_output = self.is_linear = not scales_input
        options: dict[str, Any] = {"dtype": master_dtype(weight.dtype), "device": device or weight.device}
        self.delta = nn.Parameter(torch.zeros(size, **options))

    def before(self, x: Tensor) -> Tensor:
        return torch.addcmul(x, x, self.delta.to(x.dtype)) if self.changes_input else x

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return out if self.changes_input else torch.addcmul(out, out, self.delta.to(out.dtype))

    def shapes(self) -> dict[str, torch.Size]:
        return {"ia3_l": torch.Size((1, len(self.delta)) if self.changes_input else (len(self.delta), 1))}

    def export(self, module: nn.Module) -> Params:
        return {"ia3_l": (1 + self.delta.detach()).view(self.shapes()["ia3_l"])}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        self.delta.copy_(tensors["ia3_l"].to(self.delta).flatten() - 1)

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        W = stored(module, params["weight"])
        scale = 1 + weight * self.delta.detach().to(W)
        folded = params | {"weight": stored(module, W * (scale if self.changes_input else scale[:, None]))}
        if "bias" in params and not self.changes_input:
            folded["bias"] = params["bias"] * scale
        return folded


def _feedforward_names(model: nn.Module, sites: list[str], inputs: list[str]) -> list[str] | str:
    """``feedforward_modules`` with which PEFT finds exactly ``inputs`` among ``sites``.

    PEFT compares the ends of names, dot or no dot, and wants a subset of its ``target_modules``; a pattern always does.
    """
    ends = sorted({site.rpartition(".")[2] for site in inputs})
    if set(ends) <= set(short_names(model, sites)) and inputs == [s for s in sites if s.endswith(tuple(ends))]:
        return ends
    return "|".join(re.escape(site) for site in inputs)
