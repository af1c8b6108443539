"""Which layers a specification means, for any number of layers."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from deltatune.attachment.sites import Layers, find_sites
from deltatune.errors import SiteError
from tests.models.families import FAMILIES

counts = st.integers(1, 12)
numbers = st.integers(0, 15)


@cache
def stack(count: int, other: int = 0) -> nn.Module:
    """Two stacks of layers beside each other."""
    model = nn.Module()
    for name, layers in (("encoder", count), ("decoder", other)):
        if layers:
            setattr(model, name, nn.ModuleList(nn.ModuleDict({"fc": nn.Linear(1, 1)}) for _ in range(layers)))
    return model


def chosen(count: int, layers: Layers) -> set[int]:
    try:
        return {int(site.name.split(".")[1]) for site in find_sites(stack(count), ("fc",), layers=layers)}
    except SiteError:
        return set()


@given(counts, numbers)
def test_a_number_is_that_layer(count: int, n: int) -> None:
    assert chosen(count, n) == chosen(count, str(n)) == {n} & set(range(count))


@given(counts, st.integers(1, 15))
def test_a_negative_number_counts_from_the_end(count: int, n: int) -> None:
    assert chosen(count, -n) == {count - n} & set(range(count))


@given(counts, numbers, numbers)
def test_a_range_holds_both_its_ends(count: int, first: int, last: int) -> None:
    assert chosen(count, f"{first}-{last}") == {n for n in range(count) if first <= n <= last}


@given(counts, numbers)
def test_first_and_last_are_so_many_at_either_end(count: int, n: int) -> None:
    assert chosen(count, f"first:{n}") == set(range(count)[:n])
    assert chosen(count, f"last:{n}") == {layer for layer in range(count) if layer >= count - n}


specs = st.one_of(
    st.integers(-15, 15),
    numbers.map(str),
    st.builds("{}-{}".format, numbers, numbers),
    st.builds("{}:{}".format, st.sampled_from(["first", "last"]), numbers),
)


@given(counts, st.lists(specs, min_size=1, max_size=4))
def test_several_are_their_union(count: int, several: list[int | str]) -> None:
    assert chosen(count, several) == set().union(*(chosen(count, spec) for spec in several))


@given(counts, counts, specs)
def test_each_stack_is_counted_on_its_own(count: int, other: int, spec: int | str) -> None:
    both = {f"encoder.{n}.fc" for n in chosen(count, spec)} | {f"decoder.{n}.fc" for n in chosen(other, spec)}
    try:
        found = {site.name for site in find_sites(stack(count, other), ("fc",), layers=spec)}
    except SiteError:
        found = set()
    assert found == both


@given(st.text(max_size=6))
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    assume(not re.fullmatch(r"\d+(-\d+)?|(first|last):\d+", text))
    with pytest.raises(SiteError) as caught:
        find_sites(stack(3), ("fc",), layers=text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["", "a", "1-", "-1", "first", "first:", "middle:2", "1,2", "1 - 2"])
def test_what_is_no_specification_is_named(spec: str) -> None:
    with pytest.raises(SiteError, match=rf"expected a number, 'a-b', 'first:n' or 'last:n', found {spec!r}"):
        find_sites(stack(3), ("fc",), layers=spec)


def test_layers_out_of_reach_are_answered_with_those_that_there_are() -> None:
    with pytest.raises(SiteError, match="expected layers among encoder 0-2, decoder 0-1, found none"):
        find_sites(stack(3, 2), ("fc",), layers=7)
    with pytest.raises(SiteError, match="expected numbered layers, found none in this model"):
        find_sites(nn.ModuleDict({"fc": nn.Linear(1, 1)}), ("fc",), layers=0)


def test_the_layer_is_the_first_number_of_a_name() -> None:
    found = find_sites(FAMILIES["t5"].model(), ("query",), layers="last:1")
    assert [site.name for site in found] == [
        "encoder.block.1.layer.0.SelfAttention.q",
        "decoder.block.1.layer.0.SelfAttention.q",
        "decoder.block.1.layer.1.EncDecAttention.q",
    ]


def test_what_is_in_no_layer_is_left_out_when_layers_are_asked_for() -> None:
    model = FAMILIES["llama"].model()
    assert [site.name for site in find_sites(model, ("embed_tokens", "q_proj"), layers=0)] == [
        "model.layers.0.self_attn.q_proj"
    ]
    with torch.no_grad(), pytest.raises(SiteError, match="found 1 before layers and exclude and none after"):
        find_sites(model, ("embed_tokens",), layers=0)
