"""The timeline against what is known of a few operations, and against adding up moment by moment."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltatune.planning.timeline import Block, Timeline

KIB = 1024


def floats(count: int, **settings: Any) -> torch.Tensor:
    return torch.empty(count, device="meta", **settings)


def test_what_is_made_and_freed_is_there_in_between() -> None:
    with Timeline() as timeline:
        a = floats(256)
        b = a * 2
        del a
        c = b + 1
    assert [block.nbytes for block in timeline.blocks] == [KIB] * 3
    assert timeline.live(timeline.now) == [timeline.block_of(b), timeline.block_of(c)]
    assert timeline.most() == 2 * KIB


def test_an_input_that_is_freed_by_its_operation_was_there_beside_the_result() -> None:
    with Timeline() as timeline:
        x = floats(256)
        x = x + 1
    assert timeline.most() == 2 * KIB
    assert timeline.live(timeline.now)[-1] is timeline.block_of(x)


def test_views_and_changes_in_place_take_nothing() -> None:
    with Timeline() as timeline:
        x = floats(256)
        x.view(16, 16).t().add_(1)
    assert timeline.most() == KIB
    assert len(timeline.blocks) == 1


def test_what_was_there_before_does_not_count() -> None:
    x = floats(256)
    with Timeline([x]) as timeline:
        view, product = x[:7], x * 2
    assert timeline.most() == KIB
    assert timeline.block_of(x) is timeline.block_of(view) is None
    assert timeline.block_of(product) is not None


def test_what_backward_keeps_and_makes_is_seen() -> None:
    x = floats(256, requires_grad=True)
    with Timeline([x]) as timeline:
        y = (x.exp() * 1).sum()
        forward = timeline.now
        y.backward()
    kept = [block.operation for block in timeline.blocks if block.outlives(forward)]
    assert "aten.exp.default" in kept
    assert timeline.block_of(x.grad) in timeline.live(timeline.now)


@pytest.mark.parametrize(
    ("make", "operations"),
    [
        (lambda a, b: a @ b, 2 * 3 * 4 * 5),
        (lambda a, b: torch.addmm(floats(5), a, b), 2 * 3 * 4 * 5),
        (lambda a, b: a.expand(7, 3, 4) @ b.expand(7, 4, 5), 7 * 2 * 3 * 4 * 5),
        (lambda a, b: torch.nn.functional.linear(a, b.t()), 2 * 3 * 4 * 5),
        (lambda a, b: a + 1, 0),
    ],
)
def test_products_are_counted(make: Any, operations: int) -> None:
    a, b = torch.empty(3, 4, device="meta"), torch.empty(4, 5, device="meta")
    with Timeline() as timeline:
        make(a, b)
    assert timeline.operations == operations


lives = st.lists(
    st.tuples(st.integers(1, 99), st.integers(1, 20), st.one_of(st.none(), st.integers(0, 20))), max_size=12
)


@given(lives)
def test_the_peak_is_the_largest_sum_of_all_moments(found: list[tuple[int, int, int | None]]) -> None:
    timeline = Timeline()
    timeline.now = 41
    timeline.blocks = [
        Block(size, "", (), torch.uint8, born, None if more is None else born + more) for size, born, more in found
    ]
    sums = [sum(block.nbytes for block in timeline.live(moment)) for moment in range(42)]
    assert timeline.most() == max(sums)
    assert timeline.peak() == sums.index(max(sums))
