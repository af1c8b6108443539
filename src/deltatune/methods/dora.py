r"""DoRA: weight-decomposed low-rank adaptation (Liu et al. 2024, https://arxiv.org/abs/2402.09353, section 4).

.. math:: V = W_0 + s B A, \qquad W' = m \odot \frac{V}{\lVert V \rVert}, \qquad s = \frac{\alpha}{r}

with W₀ ``[out, in]`` frozen; A ``[r, in]``, B ``[out, r]`` and the magnitudes m ``[out]`` trained; ‖·‖ the norm of each
row. A and B start as LoRA's and m as ‖W₀‖, so a fresh delta is the identity. As in section 4.3, ‖V‖ is a constant for
the gradient. A bias of the site is not scaled, and m does not decay. With g = m / ‖V‖ and dropout the output is

.. math:: y = W_0 x + (g - 1) \odot W_0\, \mathrm{drop}(x) + g \odot s B A\, \mathrm{drop}(x).

Saved: A, B and m of each site, in Hugging Face PEFT's layout (``use_dora``).

No matrix of the size of W₀ is made for the norm. Row by row,

.. math:: \lVert V \rVert^2 = \lVert W_0 \rVert^2
          + \sum_r \big(2 s\, (W_0 A^\top) \circ B + s^2\, (B\, A A^\top) \circ B\big),

where the first term is computed once, W₀Aᵀ is ``[out, r]`` and AAᵀ is ``[r, r]``.

Behind other deltas of a site W₀x stands for the output so far, without the base's bias; ‖V‖ is that of the base's own
weight. An embedding is the linear map of one-hot rows; nothing is dropped there.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment import autocast
from deltatune.attachment.layers import dense, is_quantized, stored
from deltatune.attachment.part import Params, master_dtype
from deltatune.attachment.sites import Site
from deltatune.methods.lora import LoRA, LoRAPart

__all__ = ["DoRA"]

MAGNITUDE = "lora_magnitude_vector"
"""The name of m in a file."""


@dataclass(frozen=True)
class DoRA(LoRA):
    """Weight-decomposed low-rank adaptation. See the module's docstring for the equation, :class:`LoRA` for the rest.

    Args:
        r: the rank. Default: 16, half of what LoRA takes for the same result.
        alpha: the product is scaled by ``alpha / r``. Default: 32.
        targets: Default: queries, keys, values and the MLP's up and down projections, as in the paper's experiments.
    """

    key: ClassVar[str] = "dora"
    use_dora: ClassVar[bool] = True

    targets: tuple[str, ...] = ("query", "key", "value", "mlp_up", "mlp_down")
    r: int = 16
    alpha: float = 32

    def part(self, site: Site, r: int, scale: float, device: torch.device | None) -> DoRAPart:
        bias = self.bias != "none"
        return DoRAPart(site.module, r, scale, dropout=self.dropout, init=self.init, bias=bias, device=device)


class DoRAPart(LoRAPart):
    """A, B and m of one site."""

    is_linear = False

    def __init__(self, module: nn.Module, r: int, scale: float, **settings: Any) -> None:
        super().__init__(module, r, scale, **settings)
        # In tuples they are no parameters of the part. The module gets others while other deltas are merged into it.
        self.site = (module,)
        self.kept: tuple[Tensor, Tensor | None] | None = (module.get_parameter("weight"), getattr(module, "bias", None))
        self.squares: tuple[Hashable, Tensor] | None = None
        self.norms: tuple[Hashable, Tensor] | None = None
        self.m = nn.Parameter(torch.empty_like(self.lora_B[:, 0]))
        if not self.m.is_meta:
            with torch.no_grad():
                self.m.copy_(self.norm())

    @property
    def base(self) -> tuple[nn.Module, Tensor, Tensor | None]:
        """The site, its weight and its bias, as they are without any delta."""
        (module,) = self.site
        return module, *(self.kept or (module.get_parameter("weight"), getattr(module, "bias", None)))

    def release(self) -> None:
        self.kept = None

    def update(self, x: Tensor, out: Tensor) -> Tensor:
        norm, bias = self.norm(), self.base[2]
        if not self.training or not self.dropout or self.is_lookup:
            return rescaled(self.add(x, out, *self.factors()), self.m, norm, bias)
        dropped = F.dropout(x, self.dropout)
        noise = self.map(dropped - x)
        return rescaled(self.add(dropped, out + noise, *self.factors()), self.m, norm, bias) - noise

    def map(self, x: Tensor) -> Tensor:
        """W₀x."""
        module, weight, bias = self.base
        if not is_quantized(module):
            return F.linear(x, stored(module, weight))
        out: Tensor = module.forward(x)  # keeps no dense weight for backward
        return out if bias is None else out - bias

    def norm(self) -> Tensor:
        """‖V‖ of each row, ``[out]``; where nothing is trained it is kept until a tensor changes."""
        if self.lora_A.requires_grad and (self.training or torch.is_grad_enabled()):
            self.norms = None  # an optimiser may write without leaving a trace
            return self._norm()
        state = (self._base_state(), _state(self.lora_A), _state(self.lora_B))
        if self.norms is None or self.norms[0] != state or _is_only_inferred(self.norms[1]):
            self.norms = (state, self._norm())
        return self.norms[1]

    @torch.no_grad()
    def _norm(self) -> Tensor:
        module, weight, _ = self.base
        W = stored(module, dense(module) if is_quantized(module) else weight)
        with autocast.off(W.device.type):
            return row_norms(W, self._squares(W), *self.factors(), self.scale)

    def _squares(self, W: Tensor) -> Tensor:
        """‖W₀‖² of each row, computed again when the base's weight changes or moves."""
        if torch.compiler.is_compiling():  # memory has no address there
            return row_squares(W)
        state = self._base_state()
        if self.squares is None or self.squares[0] != state:
            self.squares = (state, row_squares(W))
        return self.squares[1]

    def _base_state(self) -> Hashable:
        module, weight, _ = self.base
        # bitsandbytes packs the same weight anew as it sees fit.
        return (weight.device, weight._version) if is_quantized(module) else _state(weight)

    def shapes(self) -> dict[str, torch.Size]:
        return super().shapes() | {MAGNITUDE: self.m.shape}

    def export(self, module: nn.Module) -> Params:
        return super().export(module) | {MAGNITUDE: self.m.detach()}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        super().restore(module, tensors)
        self.m.copy_(tensors[MAGNITUDE])

    @torch.no_grad()
    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        W = stored(module, params["weight"])
        A, B = (factor.to(W) for factor in self.factors())
        g = (self.m / self.norm()).to(W)
        scaled = g[:, None] * torch.addmm(W, B, A, alpha=self.scale)
        folded = params | {"weight": stored(module, torch.lerp(W, scaled, weight))}
        if "bias" in params:  # what earlier deltas made of it is scaled, the base's own is not
            now, own = params["bias"], self.base[2]
            own = torch.zeros_like(now) if own is None else own.to(now)
            folded["bias"] = torch.lerp(now, own + g * (now - own), weight)
        return folded if self.shift is None else self.shift.fold(module, folded, weight)


def row_squares(W: Tensor) -> Tensor:
    """‖W‖² of each row of W ``[out, in]``, in float32 at least."""
    norms: Tensor = torch.linalg.vector_norm(W, dim=1, dtype=master_dtype(W.dtype))
    return norms.square()


def row_norms(W: Tensor, squares: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """‖W + scale * B A‖ of each row, without a matrix of the size of W.

    Args:
        W: ``[out, in]``.
        squares: ‖W‖² of each row, ``[out]``.
        A: ``[r, in]``.
        B: ``[out, r]``.
        scale: the factor on the product.
    """
    cross = (W @ A.t().to(W.dtype)).to(B.dtype)
    change = torch.addmm(cross, B, A @ A.t(), beta=2 * scale, alpha=scale**2).mul_(B).sum(1)
    norms = change.add_(squares).clamp_min_(0).sqrt_()
    return norms.clamp_min_(torch.finfo(norms.dtype).tiny)  # a row of zeros has no direction


def rescaled(u: Tensor, m: Tensor, norm: Tensor, bias: Tensor | None) -> Tensor:
    """``bias + m / norm * (u - bias)``, where ``norm`` is a constant.

    It is computed as ``u + c * (u - bias)`` with ``c = m / norm - 1``: in half precision m / norm would round to one.

    Args:
        u: ``[..., out]``.
        m: ``[out]``.
        norm: ``[out]``.
        bias: ``[out]``, or none.
    """
    if torch.compiler.is_compiling():  # the compiler fuses as it sees fit
        return u + (m / norm - 1).to(u.dtype) * (u if bias is None else u - bias)
    return _Rescaled.apply(u, m, norm, bias)  # type: ignore[no-any-return, no-untyped-call]


class _Rescaled(torch.autograd.Function):
    """See :func:`rescaled`. With few passes over ``[tokens, out]``: for a gradient ``e``

    ``du = e + c * e``, ``dm = (Σ e * u - bias * Σ e) / norm`` and ``dbias = -c * Σ e``, where Σ is over tokens.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, m: Tensor, norm: Tensor, bias: Tensor | None) -> Tensor:
        c = (m / norm).sub_(1).to(u.dtype)
        ctx.save_for_backward(u, c, norm, bias)
        scaled = torch.addcmul(u, u, c)
        return scaled if bias is None else scaled.sub_(c * bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, c, norm, bias = ctx.saved_tensors
        _, needs_m, _, needs_bias = ctx.needs_input_grad
        room = grad * u
        dm = room.flatten(0, -2).sum(0, dtype=norm.dtype) if needs_m else None
        dbias = None
        if bias is not None and (needs_m or needs_bias):
            total = grad.flatten(0, -2).sum(0, dtype=norm.dtype)
            dm = None if dm is None else dm - bias * total
            dbias = (-c * total).to(bias.dtype)
        du = torch.addcmul(grad, grad, c, out=room)
        return du, None if dm is None else dm / norm, None, dbias


def _is_only_inferred(tensor: Tensor) -> bool:
    """Whether a tensor was made where nothing is differentiated, while now something may be."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()


def _state(tensor: Tensor) -> Hashable:
    """What differs once a tensor has been written to, replaced or moved."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device
