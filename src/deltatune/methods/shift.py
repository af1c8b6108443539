"""A trained shift of a module's bias: ``out + δ``, the building block of methods that tune biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attach.part import Params, Part, master_dtype

__all__ = ["Shift"]


class Shift(Part):
    """``out + δ`` with δ ``[out]`` starting at zero. A file holds the whole trained bias, b + δ, as PEFT's does."""

    is_linear = True

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        super().__init__()
        bias = module.get_parameter("bias")
        options: dict[str, Any] = {"dtype": master_dtype(bias.dtype), "device": device or bias.device}
        self.delta = nn.Parameter(torch.zeros(bias.shape, **options))

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether ``module`` adds a bias to the last dimension of its output."""
        bias = getattr(module, "bias", None)
        return isinstance(bias, nn.Parameter) and bias.dim() == 1 and not isinstance(module, nn.modules.conv._ConvNd)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return out + self.delta.to(out.dtype)

    def shapes(self) -> dict[str, torch.Size]:
        return {"bias": self.delta.shape}

    def export(self, module: nn.Module) -> Params:
        return {"bias": module.get_parameter("bias").detach().to(self.delta) + self.delta.detach()}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        self.delta.copy_(tensors["bias"].to(self.delta) - module.get_parameter("bias").to(self.delta))

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        return params | {"bias": params["bias"] + weight * self.delta.detach().to(params["bias"])}
