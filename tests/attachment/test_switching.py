"""Turning deltas off shows the base, exactly, and whatever was switched is put back."""

from __future__ import annotations

import pytest
import torch

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import AttachError
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_family, every_method, families


@every_family
@every_method
def test_disabled_is_exactly_the_base(family: Family, row: Row) -> None:
    model = family.model()
    base = family.forward(model)
    delta = attach(model, row, family, seed=1)
    changed = family.forward(model)
    assert (changed - base).abs().max() > 1e-3

    with dt.disabled(model):
        assert torch.equal(family.forward(model), base)
        with dt.disabled(model):
            assert torch.equal(family.forward(model), base)
        assert torch.equal(family.forward(model), base)
    assert torch.equal(family.forward(model), changed)

    delta.disable()
    assert torch.equal(family.forward(model), base)
    delta.enable()
    assert torch.equal(family.forward(model), changed)


@families("llama")
def test_deltas_are_switched_one_by_one_and_all_at_once(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    attach(model, ROWS["lora"], family, "a", seed=1)
    alone = family.forward(model)
    attach(model, ROWS["lora"], family, "b", seed=2)
    both = family.forward(model)

    dt.disable(model, "b")
    assert torch.equal(family.forward(model), alone)
    dt.disable(model)
    assert torch.equal(family.forward(model), base)
    dt.enable(model, "a")
    assert torch.equal(family.forward(model), alone)
    dt.enable(model)
    assert torch.equal(family.forward(model), both)


@families("llama")
def test_disabled_leaves_a_delta_that_was_off_off(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    only_a = family.forward(model)
    attach(model, ROWS["lora"], family, "b", seed=2).disable()
    with dt.disabled(model):
        pass
    assert torch.equal(family.forward(model), only_a)


@families("llama")
def test_contexts_unwind_on_an_exception(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, "a", seed=1)
    changed = family.forward(model)
    with pytest.raises(KeyError), dt.disabled(model):
        raise KeyError
    assert torch.equal(family.forward(model), changed)
    with pytest.raises(KeyError), dt.routed(model, [None] * 3):
        raise KeyError
    assert torch.equal(family.forward(model), changed)


@families("llama")
def test_inner_contexts_win_and_outer_ones_come_back(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    attach(model, ROWS["lora"], family, "a", seed=1)
    changed = family.forward(model)
    with dt.routed(model, [None, "a", None]):
        routed = family.forward(model)
        with dt.disabled(model):
            assert torch.equal(family.forward(model), base)
        with dt.routed(model, ["a"] * 3):
            assert torch.equal(family.forward(model), changed)
        assert torch.equal(family.forward(model), routed)


@families("llama")
def test_a_frozen_delta_acts_without_training(family: Family) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    changed = family.forward(model)
    delta.freeze()
    assert not delta.is_trainable
    assert not family.loss(model).requires_grad
    assert torch.equal(family.forward(model), changed)
    delta.unfreeze()
    assert delta.is_trainable
    family.loss(model).backward()
    assert all(parameter.grad is not None for parameter in delta.parameters())


@families("llama")
def test_what_a_method_never_trains_stays_frozen_when_the_delta_thaws(family: Family) -> None:
    parts = dict(dt.attach(family.model(), dt.LoRA(r=2)).items())
    for part in parts.values():
        part.get_parameter("lora_A").requires_grad_(False)  # as in LoRA-FA
    delta = Delta("half", dt.LoRA(r=2), parts)
    delta.freeze().unfreeze()
    trained = {name.rpartition(".")[2] for name, parameter in delta.named_parameters() if parameter.requires_grad}
    assert trained == {"lora_B"}


@families("llama")
def test_nothing_can_be_disabled_or_routed_where_nothing_is_attached(family: Family) -> None:
    model = family.model()
    with pytest.raises(AttachError, match="found none; call "), dt.disabled(model):
        pass
    with pytest.raises(AttachError, match="found none; call "), dt.routed(model, [None]):
        pass


def test_a_wrapped_model_is_seen_through() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    base = family.forward(model)
    wrapped = torch.nn.DataParallel(model)
    delta = attach(wrapped, ROWS["lora"], family, seed=1)
    assert dt.deltas(model) == dt.deltas(wrapped) == {"default": delta}
    with dt.disabled(wrapped):
        assert torch.equal(family.forward(model), base)
    dt.detach(wrapped)
    assert not hasattr(model, "deltatune")
