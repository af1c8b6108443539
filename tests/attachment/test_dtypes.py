"""Precision and devices: a float32 master copy on a half-precision base, models that are cast, and the meta device."""

from __future__ import annotations

import pytest
import torch

import deltatune as dt
from deltatune.methods.lora import LoRA
from tests.models.families import FEW, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_family, every_method, families, train_step


@families(*FEW)
@every_method
def test_a_bfloat16_base_trains_a_float32_delta(family: Family, row: Row) -> None:
    model = family.model().to(torch.bfloat16)
    base = family.forward(model)
    assert base.dtype == torch.bfloat16
    delta = attach(model, row, family)
    assert {parameter.dtype for parameter in delta.parameters()} == {torch.float32}
    if row.starts_as_base:
        assert (family.forward(model) - base).abs().max() <= 0.05 * base.abs().max()
    before = {name: parameter.detach().clone() for name, parameter in delta.named_parameters()}
    for _ in range(2):  # the tensors behind a zero get their first gradient in the second step
        train_step(model, family)
    assert all(p.dtype == torch.float32 for p in delta.parameters())
    moved = [name for name, parameter in delta.named_parameters() if not torch.equal(parameter, before[name])]
    assert moved == list(before)
    dt.detach(model)
    assert torch.equal(family.forward(model), base)


@families(*FEW)
@every_method
def test_a_delta_on_a_bfloat16_base_is_the_float32_one_within_rounding(family: Family, row: Row) -> None:
    model = family.model()
    delta = attach(model, row, family, seed=1)
    exact = family.forward(model)
    half = family.model().to(torch.bfloat16)
    twin = attach(half, row, family, seed=1)
    with torch.no_grad():
        for (name, parameter), (other, value) in zip(twin.named_parameters(), delta.named_parameters(), strict=True):
            assert name == other
            parameter.copy_(value)
    assert (family.forward(half).float() - exact).abs().max() <= 0.1 * exact.abs().max()


@families(*FEW)
@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_is_cast_takes_its_deltas_along(family: Family, row: Row, dtype: torch.dtype) -> None:
    model = family.model()
    attach(model, row, family, seed=1)
    expected = family.forward(model)
    model.to(dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    found = family.forward(model)
    assert found.dtype == dtype
    assert (found - expected).abs().max() <= (1e-4 if dtype == torch.float64 else 0.1) * expected.abs().max()
    family.loss(model).backward()


@pytest.mark.filterwarnings("ignore:merge. :UserWarning")  # of what it has to untie or to add
@families("bert", "llama", "gpt2")
@every_method
def test_a_bfloat16_model_merges_within_its_rounding(family: Family, row: Row) -> None:
    if not row.merges:
        pytest.skip("has no form as weights")
    model = family.model().to(torch.bfloat16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    attach(model, row, family, seed=1)
    changed = family.forward(model)
    done = dt.merge(model)
    assert done.largest_difference < 6e-2
    assert row.in_place or done.largest_difference > 0  # such a merge is exact
    assert (family.forward(model) - changed).abs().max() <= 0.1 * changed.abs().max()
    dt.unmerge(model)
    dt.detach(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@families("llama", "gpt2", "bert")
def test_autocast_computes_in_half_precision_and_trains_in_full(family: Family) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    exact = family.forward(model)
    family.loss(model).backward()
    expected = [parameter.grad.clone() for parameter in delta.parameters()]
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = family.forward(model)
        loss = family.loss(model)
    assert output.dtype == torch.bfloat16
    assert (output.float() - exact).abs().max() <= 0.1 * exact.abs().max()
    loss.backward()
    for parameter, gradient in zip(delta.parameters(), expected, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - gradient).norm() <= 0.2 * gradient.norm()


@every_family
@every_method
def test_on_the_meta_device_a_delta_has_its_shapes_and_no_memory(family: Family, row: Row) -> None:
    real, model = family.model(), family.outline()
    expected = attach(real, row, family)
    delta = attach(model, row, family)
    assert all(tensor.is_meta for tensor in [*delta.parameters(), *delta.buffers()] if tensor.dim())
    assert {n: p.shape for n, p in delta.named_parameters()} == {n: p.shape for n, p in expected.named_parameters()}
    assert delta.sites == expected.sites
    assert {n: p.shapes() for n, p in delta.items()} == {n: p.shapes() for n, p in expected.items()}
    assert str(dt.summary(model)) == str(dt.summary(real))


@families("llama", "t5")
def test_a_forward_pass_on_the_meta_device_has_the_shape_of_the_real_one(family: Family) -> None:
    real, model = family.model(), family.outline()
    attach(model, ROWS["lora"], family)
    inputs = {name: value for name, value in family.inputs().items() if name != "attention_mask"}
    outline = {name: value.to("meta") for name, value in inputs.items()}
    assert model(**outline).logits.shape == real(**inputs).logits.shape


@families("llama")
def test_pissa_on_a_half_precision_base_starts_as_the_base(family: Family) -> None:
    model = family.model().to(torch.bfloat16)
    base = family.forward(model)
    dt.attach(model, LoRA(r=4, init="pissa"))
    assert (family.forward(model) - base).abs().max() <= 0.05 * base.abs().max()
