"""The rules by which tensors are merged, against their equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deltatune.composition.rules import Choice, Rule, dare, dare_ties, drop, linear, magnitude, ties, trim

SEEDS = st.integers(0, 2**31)


def tensors(seed: int, count: int = 3, shape: tuple[int, ...] = (5, 7)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def by_hand(values: list[float], weights: list[float], sign: str = "total") -> float:
    """TIES for one entry, as algorithm 1 says it."""
    values = [-v if w < 0 else v for v, w in zip(values, weights, strict=True)]
    votes = sum(values) if sign == "total" else sum((v > 0) - (v < 0) for v in values)
    elected = 1 if votes >= 0 else -1
    agreeing = [(v, abs(w)) for v, w in zip(values, weights, strict=True) if v * elected > 0]
    return sum(v * w for v, w in agreeing) / max(1, len(agreeing))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.01, 1))
def test_trimming_keeps_the_largest_share(seed: int, density: float) -> None:
    [tensor] = tensors(seed, 1)
    left = trim(tensor, density)
    kept = left != 0
    assert int(kept.sum()) == int(density * tensor.numel())
    assert torch.equal(left[kept], tensor[kept])
    if bool(kept.any()) and not bool(kept.all()):
        assert tensor[kept].abs().min() >= tensor[~kept].abs().max()


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from(["total", "frequency"]), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_ties_is_the_papers_algorithm(seed: int, sign: str, weights: list[float]) -> None:
    given = tensors(seed)
    merged = ties(given, weights, Choice(0.6, sign))  # type: ignore[arg-type]
    trimmed = [trim(tensor, 0.6).flatten().tolist() for tensor in given]
    expected = [by_hand(list(values), weights, sign) for values in zip(*trimmed, strict=True)]
    torch.testing.assert_close(merged.flatten(), torch.tensor(expected, dtype=torch.float64))


def test_ties_elects_and_averages_what_agrees() -> None:
    given = [torch.tensor([3.0, -1.0, 2.0, 0.0]), torch.tensor([1.0, 4.0, -5.0, 0.0])]
    assert ties(given, [1, 1], Choice()).tolist() == [2.0, 4.0, -5.0, 0.0]


def test_what_is_taken_away_votes_against_itself() -> None:
    given = [torch.tensor([1.0]), torch.tensor([3.0])]
    assert ties(given, [1, -1], Choice()).tolist() == [-3.0]


@pytest.mark.parametrize("rule", [ties, magnitude, linear])
def test_one_tensor_at_full_density_is_itself(rule: Rule) -> None:
    [tensor] = tensors(0, 1)
    torch.testing.assert_close(rule([tensor], [0.5], Choice()), tensor / 2)


@pytest.mark.parametrize("rule", [ties, magnitude, linear])
def test_the_order_does_not_matter(rule: Rule) -> None:
    given, weights = tensors(1), [0.5, -1.0, 2.0]
    torch.testing.assert_close(
        rule(given, weights, Choice(0.5)), rule(given[::-1], weights[::-1], Choice(0.5)), rtol=1e-12, atol=1e-12
    )


def test_dare_keeps_its_share_and_its_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    [tensor] = tensors(0, 1, (200, 200))
    left = drop(tensor, 0.3, generator)
    kept = left != 0
    assert float(kept.double().mean()) == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(left[kept], tensor[kept] / 0.3)
    small = tensors(1, 2, (4, 4))
    draws = [dare(small, [0.7, -0.3], Choice(0.5, generator=generator)) for _ in range(4000)]
    mean, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 4000**0.5
    assert bool(((mean - linear(small, [0.7, -0.3], Choice())).abs() < 5 * error).all())


def test_dare_at_full_density_is_the_sum() -> None:
    given = tensors(3)
    assert torch.equal(dare(given, [1, 2, 3], Choice()), linear(given, [1, 2, 3], Choice()))
    assert torch.equal(dare_ties(given, [1, 2, 3], Choice()), ties(given, [1, 2, 3], Choice()))


def test_draws_follow_from_the_generator() -> None:
    given = tensors(2)
    one, same, other = (
        dare(given, [1, 1, 1], Choice(0.5, generator=torch.Generator().manual_seed(s))) for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
