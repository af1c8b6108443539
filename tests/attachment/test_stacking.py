"""Several deltas on one model: all act, in the order in which they came, and all train."""

from __future__ import annotations

import itertools

import pytest
import torch

import deltatune as dt
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS
from tests.models.tools import attach, families, gradients, stir


@families("llama", "bert")
@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(ROWS, 2)), ids="+".join)
def test_any_two_methods_act_and_train_together(family: Family, pair: tuple[str, str]) -> None:
    model = family.model()
    base = family.forward(model)
    a = attach(model, ROWS[pair[0]], family, "a", seed=1)
    only_a = family.forward(model)
    b = attach(model, ROWS[pair[1]], family, "b")
    if ROWS[pair[1]].starts_as_base:
        torch.testing.assert_close(family.forward(model), only_a, atol=1e-4, rtol=1e-4)
    stir(b, seed=2)
    both = family.forward(model)
    dt.disable(model, "a")
    only_b = family.forward(model)
    dt.enable(model)
    for one, other in itertools.combinations([base, only_a, only_b, both], 2):
        assert (one - other).abs().max() > 1e-3

    family.loss(model).backward()
    # Of two trained copies of a head the last one answers, so the first learns nothing below it.
    answered_for = {f"deltatune.deltas.a.parts.{i}.copy" for i, site in enumerate(a.sites) if site == "classifier"}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(gradients(model)) == {name for name in trained if name.rpartition(".")[0] not in answered_for}
    assert {name.split(".")[2] for name in gradients(model)} == {"a", "b"}

    dt.detach(model, "a")
    assert torch.equal(family.forward(model), only_b)
    dt.detach(model, "b")
    assert torch.equal(family.forward(model), base)


def test_deltas_act_in_the_order_of_attachment() -> None:
    # The trained head of the second answers in place of that of the first, so the order can be seen.
    family = FAMILIES["bert"]
    model = family.model()
    for name, seed in (("a", 1), ("b", 2)):
        stir(dt.attach(model, LoRA(targets=("query",)), name=name), seed=seed)
    for delta in dt.deltas(model).values():
        for site, part in delta.items():
            if site != "classifier":
                torch.nn.init.zeros_(part.lora_B)
    both = family.forward(model)
    dt.disable(model, "a")
    assert torch.equal(family.forward(model), both)
    dt.enable(model)
    dt.disable(model, "b")
    assert not torch.allclose(family.forward(model), both)


@families("llama")
def test_the_sum_of_two_products_is_their_order_either_way(family: Family) -> None:
    first, second = family.model(), family.model()
    for model, order in ((first, "ab"), (second, "ba")):
        for name in order:
            attach(model, ROWS["lora"], family, name, seed=ord(name))
        assert list(dt.deltas(model)) == list(order)
    torch.testing.assert_close(family.forward(first), family.forward(second), atol=1e-4, rtol=1e-4)


@families("bert", "vit")
def test_a_delta_on_top_of_a_trained_one_goes_on_from_its_head(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    trained = family.forward(model)
    attach(model, ROWS["lora"], family, "b")
    assert torch.equal(family.forward(model), trained)


@families("llama")
def test_taking_one_off_and_putting_it_on_again_makes_it_the_last(family: Family) -> None:
    model = family.model()
    for name in "abc":
        attach(model, ROWS["lora"], family, name)
    dt.detach(model, "a")
    attach(model, ROWS["lora"], family, "a")
    assert list(dt.deltas(model)) == ["b", "c", "a"]
