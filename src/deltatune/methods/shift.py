"""A trained shift of a module's bias: ``out + δ``, the building block of methods that tune biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.layers import features, is_channels_first
from deltatune.attachment.part import Params, Part, master_dtype
from deltatune.attachment.shards import whole

__all__ = ["Shift"]


class Shift(Part):
    """``out + δ`` with δ ``[out]`` starting at zero. A file holds the whole trained bias, b + δ, as PEFT's does.

    A linear module without a bias has b = 0; merging gives it one.
    """

    is_linear = True

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        super().__init__()
        bias = getattr(module, "bias", None)
        like = module.get_parameter("weight") if bias is None else bias
        size = features(module)[1] if bias is None else len(bias)
        self.channels_first = is_channels_first(module)
        options: dict[str, Any] = {"dtype": master_dtype(like.dtype), "device": device or like.device}
        self.delta = nn.Parameter(torch.zeros(size, **options))

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` adds a bias of its own to its output."""
        bias = getattr(module, "bias", None)
        return isinstance(bias, nn.Parameter) and bias.dim() == 1 and not any(module.children())

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        delta = self.delta.to(out.dtype)
        return out + (delta.view(-1, *[1] * (out.dim() - 2)) if self.channels_first else delta)

    def shapes(self) -> dict[str, torch.Size]:
        return {"bias": self.delta.shape}

    def export(self, module: nn.Module) -> Params:
        return {"bias": self.delta.detach() + self._bias(module)}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        self.delta.copy_(tensors["bias"].to(self.delta) - self._bias(module))

    def _bias(self, module: nn.Module) -> Tensor:
        bias = getattr(module, "bias", None)
        return torch.zeros_like(self.delta) if bias is None else whole(bias.detach()).to(self.delta)

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        bias = params.get("bias")
        change = weight * self.delta.detach().to(params["weight"] if bias is None else bias)
        return params | {"bias": change if bias is None else bias + change}
