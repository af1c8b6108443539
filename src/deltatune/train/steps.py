"""The elementwise steps of LLaMA-like models, by hand: few passes over memory, in place where it is their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["RMSNorm", "SwiGLU"]


class SwiGLU:
    """``silu(gate) * up`` (Shazeer 2020, https://arxiv.org/abs/2002.05202), with autograd's gradients bit for bit."""

    def make(self, *sources: Tensor) -> Tensor:
        gate, up = sources
        return F.silu(gate).mul_(up)

    def gradients(self, grad: Tensor, *sources: Tensor) -> Sequence[Tensor]:
        gate, up = sources
        of_up = F.silu(gate).mul_(grad)
        of_gate = grad * up
        return torch.ops.aten.silu_backward(of_gate, gate, grad_input=of_gate), of_up


class RMSNorm:
    r"""``weight * x / rms(x)`` (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467), computed in float32.

    With :math:`r = (\frac{1}{d} \sum x^2 + \epsilon)^{-1/2}` and :math:`e = g \odot w` for a gradient g:
    :math:`dx = r e - x r^3 \frac{1}{d} \sum e x`.

    Args:
        weight: ``[d]``, frozen.
        eps: what is added to the mean of the squares.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def make(self, *sources: Tensor) -> Tensor:
        (x,) = sources
        wide = x.float()
        room = wide.square()
        scaled = torch.mul(wide, self._inverse_rms(room), out=room)
        return scaled.to(x.dtype).mul_(self.weight)

    def gradients(self, grad: Tensor, *sources: Tensor) -> Sequence[Tensor]:
        (x,) = sources
        wide = x.float()
        room = wide.square()
        r = self._inverse_rms(room)
        e = (grad * self.weight).float()
        share = torch.mul(e, wide, out=room).mean(-1, keepdim=True).mul_(r.pow(3))
        return (e.mul_(r).addcmul_(wide, share, value=-1).to(x.dtype),)

    def _inverse_rms(self, squares: Tensor) -> Tensor:
        return squares.mean(-1, keepdim=True).add_(self.eps).rsqrt_()
