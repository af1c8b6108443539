"""The best matrix of a rank, and its error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.composition import truncation
from deltatune.composition.truncation import Loss, distance, product_norm, total, truncate, truncate_product

SIZES = st.integers(1, 9)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), SIZES, SIZES, SIZES, SIZES)
def test_factors_give_what_the_dense_matrix_gives(seed: int, height: int, width: int, k: int, rank: int) -> None:
    A, B = random(seed, k, width), random(seed + 1, height, k)
    M = B @ A
    a, b, loss = truncate_product(A, B, rank)
    dense_a, dense_b, dense_loss = truncate(M, rank)
    torch.testing.assert_close(b @ a, dense_b @ dense_a, rtol=1e-8, atol=1e-8)
    tail = torch.linalg.svdvals(M)[rank:]
    for each in (loss, dense_loss):
        assert each.size == pytest.approx(float(M.norm()), abs=1e-9)
        assert each.lost == pytest.approx(float(tail.norm()), abs=1e-7)
    assert float((M - b @ a).norm()) == pytest.approx(loss.lost, abs=1e-7)
    assert len(a) == b.shape[1] <= rank


def test_full_rank_loses_nothing() -> None:
    A, B = random(0, 3, 8), random(1, 6, 3)
    a, b, loss = truncate_product(A, B, 3)
    torch.testing.assert_close(b @ a, B @ A)
    assert loss.error < 1e-12
    assert loss.kept == pytest.approx(1)


@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_large_matrices(decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a thousandth of the best error, whatever the spectrum: flat, as random matrices have it, or falling."""
    U, V = (torch.linalg.qr(random(seed, 200, 150)).Q for seed in (0, 1))
    S = torch.arange(1, 151, dtype=torch.float64) ** -decay * (1 + 0.01 * random(2, 150))
    M = (U * S) @ V.t()
    best = truncate(M, 6)[2]
    monkeypatch.setattr(truncation, "LARGE", 100)
    A, B, loss = truncate(M, 6)
    assert loss.size == pytest.approx(best.size)
    assert best.lost * (1 - 1e-9) <= loss.lost <= best.lost * 1.001
    assert float((M - B @ A).norm()) == pytest.approx(loss.lost)
    assert len(A) == 6


def test_norms_without_the_product() -> None:
    A, B, C, D = random(0, 3, 8), random(1, 6, 3), random(2, 2, 8), random(3, 6, 2)
    assert product_norm(A, B) == pytest.approx(float((B @ A).norm()))
    assert distance(A, B, C, D) == pytest.approx(float((B @ A - D @ C).norm()))
    assert distance(A, B, A, B) < 1e-12


def test_the_loss_of_all() -> None:
    all_of_it = total([Loss(3.0, 0.3), Loss(4.0, 0.4)])
    assert (all_of_it.size, all_of_it.lost) == (5.0, 0.5)
    assert all_of_it.error == pytest.approx(0.1)
    assert all_of_it.kept == pytest.approx(0.99)
    assert Loss(0.0, 0.0).error == 0
