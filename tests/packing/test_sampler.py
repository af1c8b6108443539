"""Batches hold every example once an epoch, within their budget, always as many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltatune.errors import DataError
from deltatune.packing.packed import pack
from deltatune.packing.sampler import Batches
from tests.packing.texts import TEXTS


def rows(texts: list[list[int]], members: list[int], least: int) -> int:
    return pack([{"input_ids": texts[m], "labels": texts[m]} for m in members], least=least).rows


@given(
    TEXTS, st.integers(12, 40), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 3), st.integers(1, 5), st.booleans()
)
def test_an_epoch(texts: list[list[int]], room: int, group: float, seed: int, least: int, share: bool) -> None:
    batches = Batches(texts, 1, max_tokens=room, group=group, least=least, share=share, seed=seed)
    for _ in range(3):
        epoch = list(batches)
        assert sorted(member for batch in epoch for member in batch) == list(range(len(texts)))
        assert len(epoch) == len(batches)
        assert all(0 < rows(texts, batch, least if share else 10**6) <= room for batch in epoch)


@given(TEXTS, st.integers(1, 5), st.integers(0, 3))
def test_a_number_of_examples(texts: list[list[int]], size: int, seed: int) -> None:
    batches = Batches(texts, size, seed=seed)
    epoch = list(batches)
    assert len(epoch) == len(batches) == -(-len(texts) // size)
    assert max(map(len, epoch)) <= size


def test_the_order_comes_from_the_seed_and_the_epoch_alone() -> None:
    texts = [[number] * 5 for number in range(40)]
    epochs = iter([0, 1, 1])
    batches = Batches(texts, 4, seed=3, epoch=lambda: next(epochs))
    first, second, again = list(batches), list(batches), list(batches)
    assert first != second == again
    assert first == list(Batches(texts, 4, seed=3))
    assert first != list(Batches(texts, 4, seed=4))


def test_grouping_puts_alike_beginnings_together() -> None:
    texts = [[family] * 30 + [100 + member] * 3 for member in range(6) for family in range(8)]
    apart = Batches(texts, 1, max_tokens=66, seed=0, least=4)
    together = Batches(texts, 1, max_tokens=66, seed=0, least=4, group=1.0)
    assert len(together) < len(apart) / 2
    assert all(len({texts[member][0] for member in batch}) == 1 for batch in together)


def test_processes_get_equally_many() -> None:
    assert len(Batches([[1]] * 10, 3, processes=4)) == 4
    with pytest.raises(DataError, match="use fewer processes"):
        Batches([[1]] * 3, 1, processes=4)


def test_an_example_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="example 1 has 9 tokens, expected at most 8"):
        Batches([[1], [1] * 9], 1, max_tokens=8)
