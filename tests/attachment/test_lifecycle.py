"""Attach, train a step, detach: a fresh delta is the base, only deltas learn, and the base comes back bit for bit."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import deltatune as dt
from deltatune.errors import AttachError, ConfigError, SiteError
from deltatune.methods import METHODS
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import (
    assert_bit_identical,
    attach,
    every_family,
    every_method,
    families,
    fingerprint,
    gradients,
    train_step,
    values,
)

# They take models of tokens only, and their own tests hold what the matrix holds for the others.
OF_TOKENS = {"prefix", "prompt", "ptuning"}


def test_every_method_of_the_table_is_a_row_of_the_matrix_or_has_one_of_its_own() -> None:
    rows = {name.partition("-")[0] for name in ROWS}
    assert rows | OF_TOKENS == set(METHODS)
    assert all((Path(__file__).parents[1] / "methods" / f"test_{key}.py").exists() for key in OF_TOKENS)


@every_family
@every_method
def test_a_fresh_delta_is_the_base(family: Family, row: Row) -> None:
    model = family.model()
    base = family.forward(model)
    attach(model, row, family)
    if row.starts_as_base:
        torch.testing.assert_close(family.forward(model), base, atol=1e-5, rtol=1e-5)


@every_family
@every_method
def test_training_reaches_only_the_delta_and_detaching_gives_the_base_back(family: Family, row: Row) -> None:
    model = family.model()
    base, before, state = family.forward(model), values(model), fingerprint(model)
    delta = attach(model, row, family)

    loss = train_step(model, family)
    first = gradients_reach(model, family)
    assert first == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert first == {f"deltatune.deltas.default.{name}" for name, _ in delta.named_parameters()}
    assert family.loss(model).item() < loss
    with dt.disabled(model) if row.in_place else nullcontext():
        assert_bit_identical(values(model), before)

    dt.detach(model)
    assert fingerprint(model) == state
    assert_bit_identical(values(model), before)
    assert torch.equal(family.forward(model), base)


def gradients_reach(model: torch.nn.Module, family: Family) -> set[str]:
    family.loss(model).backward()
    found = set(gradients(model))
    model.zero_grad()
    return found


@families("llama")
@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_detaching_in_any_order_gives_the_base_back(family: Family, order: tuple[str, ...]) -> None:
    model = family.model()
    base, state = family.forward(model), fingerprint(model)
    for name in "abc":
        attach(model, ROWS["lora"], family, name, seed=ord(name))
    for name in order:
        dt.detach(model, name)
    assert fingerprint(model) == state
    assert torch.equal(family.forward(model), base)


@families("bert")
def test_what_was_trainable_before_is_trainable_after(family: Family) -> None:
    model = family.model()
    model.get_parameter("classifier.bias").requires_grad_(False)
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    dt.attach(model, LoRA())
    assert not any(p.requires_grad for n, p in model.named_parameters() if not n.startswith("deltatune."))
    dt.detach(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == expected


@families("llama")
def test_a_delta_taken_off_says_so(family: Family) -> None:
    model = family.model()
    delta = dt.attach(model, LoRA(), name="sql")
    assert dt.deltas(model) == {"sql": delta}
    assert delta.model is model
    dt.detach(model, delta)
    assert dt.deltas(model) == {}
    with pytest.raises(AttachError, match="found it detached"):
        _ = delta.model


@families("llama")
def test_a_model_that_is_deleted_is_freed_though_its_delta_is_kept(family: Family) -> None:
    import gc
    import weakref

    model = family.model()
    delta = dt.attach(model, LoRA())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    with pytest.raises(AttachError, match="detached"):
        _ = delta.model


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "train", "keys", "values", "type", "forward", "training"])
def test_an_unusable_name_is_refused_and_the_model_left_alone(name: str) -> None:
    model = FAMILIES["llama"].model()
    state = fingerprint(model)
    with pytest.raises(AttachError, match=f"name '{name}'"):
        dt.attach(model, LoRA(), name=name)
    assert fingerprint(model) == state


@families("llama")
def test_a_name_is_taken_once(family: Family) -> None:
    model = family.model()
    dt.attach(model, LoRA(), name="sql")
    with pytest.raises(AttachError, match="'sql' is taken by LoRA"):
        dt.attach(model, LoRA(), name="sql")
    dt.detach(model, "sql")
    dt.attach(model, LoRA(), name="sql")


@families("llama")
def test_the_verbs_say_what_is_attached_when_asked_for_something_else(family: Family) -> None:
    model = family.model()
    with pytest.raises(AttachError, match="expected an attached delta, found none"):
        dt.detach(model)
    dt.attach(model, LoRA(), name="sql")
    for verb in (dt.detach, dt.enable, dt.disable):
        with pytest.raises(AttachError, match=r"'tab': expected one that is attached, found 'sql'"):
            verb(model, "tab")


@families("llama")
def test_a_method_that_does_not_fit_leaves_the_model_alone(family: Family) -> None:
    model = family.model()
    state = fingerprint(model)
    with pytest.raises(SiteError):
        dt.attach(model, LoRA(targets=("nowhere",)))
    with pytest.raises(ConfigError):
        dt.attach(model, LoRA(init="pissa", r=64))
    assert fingerprint(model) == state


def test_a_model_with_an_attribute_of_that_name_is_refused() -> None:
    model = FAMILIES["llama"].model()
    model.deltatune = "mine"
    with pytest.raises(AttachError, match="attribute 'deltatune' of its own"):
        dt.attach(model, LoRA())
    assert model.deltatune == "mine"
    assert all(parameter.requires_grad for parameter in model.parameters())


@families("bert")
def test_a_module_trained_whole_must_have_one_input(family: Family) -> None:
    # A copy of a layer would be run without the mask that the layer is given.
    model = family.model()
    dt.attach(model, LoRA(train_also=("encoder.layer.1",)))
    with pytest.raises(AttachError, match="BertLayer: expected one input at a module that is trained whole"):
        family.forward(model)
    dt.detach(model)
    dt.attach(model, LoRA(train_also=("layer.1.output.dense", "pooler")))
    family.forward(model)


@families("llama")
def test_a_summary_counts_each_delta_once_and_the_base_without_them(family: Family) -> None:
    model = family.model()
    size = sum(parameter.numel() for parameter in model.parameters())
    delta = dt.attach(model, LoRA(r=2), name="sql")
    dt.attach(model, LoRA(r=3), name="tab").disable().freeze()
    found = dt.summary(model)
    assert found.base_parameters == size
    assert [(row.name, row.state, row.trainable) for row in found.deltas] == [
        ("sql", "on", True),
        ("tab", "off", False),
    ]
    assert found.trainable_parameters == delta.size == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{delta.size:,}" in str(found)
    assert "LlamaForCausalLM" in str(found)
