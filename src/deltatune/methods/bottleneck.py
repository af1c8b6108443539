r"""The bottleneck that the adapter methods share: ``A(h) = W_up σ(W_down h + b_down) + b_up``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment.layers import features, is_linear
from deltatune.attachment.part import Params, Part, master_dtype
from deltatune.attachment.sites import Site, find_sites
from deltatune.errors import MergeError
from deltatune.methods.base import Method, check

__all__ = ["ACTIVATIONS", "UNMERGED", "Adapter", "Bottleneck"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}

Init = Literal["zero", "normal"]
STD = 1e-3
"""The deviation of the normal start, cut off at twice that; as in the code of Houlsby et al."""

UNMERGED = (
    "an adapter has an activation between its two matrices, so no weight of the base can stand for it; keep it attached"
)


@dataclass(frozen=True)
class Adapter(Method):
    """What the adapter methods have in common; see :class:`Method` for the settings of all methods.

    Args:
        m: the size of the bottleneck. Default: ``None``, by ``reduction``.
        reduction: the width of the site over the size of its bottleneck, where ``m`` is not given. Default: 16.
        activation: σ: ``"relu"`` (default), ``"gelu"``, ``"silu"`` (also known as swish) or ``"tanh"``.
        init: ``"zero"`` (default): W_up starts at zero, so a fresh delta is exactly the identity, and W_down
            Kaiming-uniform; or ``"normal"``: both start normal with deviation 1e-3, so it is nearly that.
        layer_norm: normalise the adapter's input with a trained layer norm. Default: false.
        dropout: probability of dropping entries of σ(·), in training only. Default: 0.

    Raises:
        ConfigError: a setting is out of range.
    """

    m: int | None = None
    reduction: float = 16
    activation: str = "relu"
    init: Init = "zero"
    layer_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        key = self.key
        check(len(self.targets) > 0, f"{key}.targets", "at least one target", self.targets)
        check(self.m is None or self.m >= 1, f"{key}.m", "a whole number from 1, or none", self.m)
        check(self.reduction > 0, f"{key}.reduction", "a number above 0", self.reduction)
        check(self.activation in ACTIVATIONS, f"{key}.activation", f"one of {', '.join(ACTIVATIONS)}", self.activation)
        check(self.init in get_args(Init), f"{key}.init", f"one of {get_args(Init)}", self.init)
        check(0 <= self.dropout < 1, f"{key}.dropout", "0 <= p < 1", self.dropout)

    def sites(self, model: nn.Module, targets: tuple[str, ...]) -> list[Site]:
        """The linear modules that ``targets`` name."""
        kinds = "Linear, Conv1D, Linear4bit or Linear8bitLt"
        return find_sites(model, targets, layers=self.layers, exclude=self.exclude, fits=is_linear, expected=kinds)

    def size(self, width: int) -> int:
        """The bottleneck, m, of an adapter that reads ``width`` features."""
        return self.m or max(1, round(width / self.reduction))


class Bottleneck(Part):
    """``out + A(out)``: an adapter behind a site.

    Args:
        method: the settings.
        module: the site.
        device: where the tensors are made. Default: where the site's are.
        width: how many features A reads. Default: those of the site's output.
    """

    def __init__(
        self, method: Adapter, module: nn.Module, device: torch.device | None = None, *, width: int | None = None
    ) -> None:
        super().__init__()
        weight, height = module.get_parameter("weight"), features(module)[1]
        width = width or height
        m = method.size(width)
        options: dict[str, Any] = {"dtype": master_dtype(weight.dtype), "device": device or weight.device}
        self.activation, self.dropout = ACTIVATIONS[method.activation], method.dropout
        self.W_down = nn.Parameter(torch.empty(m, width, **options))
        self.b_down = nn.Parameter(torch.zeros(m, **options))
        self.W_up = nn.Parameter(torch.empty(height, m, **options))
        self.b_up = nn.Parameter(torch.zeros(height, **options))
        self.files = {f"adapter.{name}": name for name in ("W_down", "b_down", "W_up", "b_up")}
        self.layer_norm = method.layer_norm
        if self.layer_norm:
            self.w_norm = nn.Parameter(torch.ones(width, **options))
            self.b_norm = nn.Parameter(torch.zeros(width, **options))
            self.files |= {f"adapter.{name}": name for name in ("w_norm", "b_norm")}
        if not self.W_down.is_meta:
            self._initialize(method.init)

    @torch.no_grad()
    def _initialize(self, init: Init) -> None:
        if init == "normal":
            for W in (self.W_down, self.W_up):
                nn.init.trunc_normal_(W, std=STD, a=-2 * STD, b=2 * STD)
        else:
            nn.init.kaiming_uniform_(self.W_down, a=math.sqrt(5))
            self.W_up.zero_()

    def change(self, h: Tensor) -> Tensor:
        """A(h)."""
        if self.layer_norm:
            h = F.layer_norm(h, h.shape[-1:], self.w_norm.to(h.dtype), self.b_norm.to(h.dtype))
        W_down, b_down, W_up, b_up = (p.to(h.dtype) for p in (self.W_down, self.b_down, self.W_up, self.b_up))
        z = self.activation(F.linear(h, W_down, b_down))
        return F.linear(F.dropout(z, self.dropout, self.training), W_up, b_up)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return out + self.change(out)

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        raise MergeError(UNMERGED)
