r"""The best matrix of rank r in place of another, and what is lost by it.

By Eckart and Young the best stand-in for M of rank r in the Frobenius norm is :math:`\sum_{i \le r} s_i u_i v_i^\top`
of its singular value decomposition, and its error is :math:`\sqrt{\sum_{i > r} s_i^2}`. For :math:`M = B A` of rank k,
with the QR decompositions :math:`B = Q_b R_b` and :math:`A^\top = Q_a R_a`, the decomposition of the small matrix
:math:`R_b R_a^\top` gives that of M: exact, and without a matrix of the size of M.

The whole decomposition of a large matrix takes minutes, of which a small rank needs little. There a block of directions
is multiplied by M and Mᵀ in turn (subspace iteration; Halko et al. 2011, https://arxiv.org/abs/0909.4061, algorithm
4.4) until it holds no more energy than before; what is lost is then measured, not inferred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Loss", "distance", "product_norm", "total", "truncate", "truncate_product"]

LARGE = 1024
"""Matrices with more rows and columns than this are not decomposed as a whole for a small rank."""
BESIDE, ITERATIONS, GAIN = 16, 60, 1e-6
"""Directions beside the rank; the most iterations; and the share of the energy that is too little to go on for."""


@dataclass(frozen=True)
class Loss:
    """How far a matrix is from the one it stands for."""

    size: float
    """‖M‖, the Frobenius norm of the one it stands for."""
    lost: float
    """‖M − M'‖."""

    @property
    def error(self) -> float:
        """‖M − M'‖ / ‖M‖."""
        return self.lost / self.size if self.size else float(self.lost > 0)

    @property
    def kept(self) -> float:
        """The share of the energy ‖M‖² that a truncation keeps: 1 − error²."""
        return max(0.0, 1 - self.error**2)


def total(losses: Iterable[Loss]) -> Loss:
    """That of all matrices together."""
    each = list(losses)
    return Loss(math.hypot(*(loss.size for loss in each)), math.hypot(*(loss.lost for loss in each)))


def truncate(M: Tensor, rank: int) -> tuple[Tensor, Tensor, Loss]:
    """The factors of the best stand-in for a matrix.

    Args:
        M: ``[out, in]``.
        rank: r.

    Returns:
        A ``[r', in]``, B ``[out, r']`` with r' ≤ r, each with half of the singular values; and what is lost.
    """
    if min(M.shape) > LARGE and 4 * rank <= min(M.shape):
        A, B = _split(*_leading(M, rank), rank)
        return A, B, Loss(float(torch.linalg.matrix_norm(M)), float(torch.linalg.matrix_norm(M - B @ A)))
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return *_split(U, S, Vh, rank), _lost(S, rank)


def _leading(M: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular vectors and values, by subspace iteration until the energy they hold stays as it is."""
    generator = torch.Generator(M.device).manual_seed(0)
    start = torch.randn(M.shape[1], rank + BESIDE, generator=generator, dtype=M.dtype, device=M.device)
    Q = torch.linalg.qr(M @ start).Q
    held = 0.0
    for _ in range(ITERATIONS):
        U, S, Vh = torch.linalg.svd(Q.t() @ M, full_matrices=False)
        former, held = held, float(_exact(S[:rank]).square().sum())
        if held - former <= GAIN * held:
            break
        Q = torch.linalg.qr(M @ Vh.t()).Q
    return Q @ U, S, Vh


def truncate_product(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor, Loss]:
    """The same for M = BA, given its factors.

    Args:
        A: ``[k, in]``.
        B: ``[out, k]``.
        rank: r.
    """
    Qb, Rb = torch.linalg.qr(B)
    Qa, Ra = torch.linalg.qr(A.t())
    U, S, Vh = torch.linalg.svd(Rb @ Ra.t(), full_matrices=False)
    return *_split(Qb @ U, S, Vh @ Qa.t(), rank), _lost(S, rank)


def product_norm(A: Tensor, B: Tensor) -> float:
    """‖BA‖, from the Gram matrices of the factors."""
    A, B = _exact(A), _exact(B)
    return math.sqrt(max(0.0, float(((B.t() @ B) * (A @ A.t())).sum())))


def distance(A: Tensor, B: Tensor, other_A: Tensor, other_B: Tensor) -> float:
    """‖BA − B'A'‖, without either product."""
    Ra = torch.linalg.qr(_exact(torch.cat([A, other_A])).t()).R
    Rb = torch.linalg.qr(_exact(torch.cat([B, -other_B], dim=1))).R
    return float(torch.linalg.matrix_norm(Rb @ Ra.t()))


def _exact(tensor: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none, as Apple's GPUs."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def _split(U: Tensor, S: Tensor, Vh: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    root = S[:rank].sqrt()
    return root[:, None] * Vh[:rank], U[:, :rank] * root


def _lost(S: Tensor, rank: int) -> Loss:
    S = _exact(S)
    return Loss(float(torch.linalg.vector_norm(S)), float(torch.linalg.vector_norm(S[rank:])))
