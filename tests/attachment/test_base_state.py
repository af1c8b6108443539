"""The base's own state: what it saves with deltas attached is the base alone, and what it loads is taken whole."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import deltatune as dt
from deltatune.errors import AttachError
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import (
    assert_bit_identical,
    attach,
    every_family,
    every_method,
    families,
    fingerprint,
    stir,
    train_step,
    values,
)


@every_family
@every_method
def test_the_state_of_a_model_with_deltas_is_the_base_alone(family: Family, row: Row) -> None:
    model = family.model()
    base = family.forward(model)
    expected = copy.deepcopy(model.state_dict())
    attach(model, row, family, seed=1)
    changed = family.forward(model)

    state = copy.deepcopy(model.state_dict())
    assert_bit_identical(dict(state), dict(expected))
    assert state._metadata == expected._metadata
    fresh = family.model()
    assert_loaded_whole(fresh, state)
    assert torch.equal(family.forward(fresh), base)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0 if name.startswith("deltatune.") else 1)
    assert_loaded_whole(model, state)
    assert torch.equal(family.forward(model), changed)


def assert_loaded_whole(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    result = model.load_state_dict(state, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


@families("llama")
@pytest.mark.parametrize("wrap", [lambda model: nn.ModuleDict({"inner": model}), torch.nn.DataParallel])
def test_a_model_inside_another_loads_its_base_strictly_too(family: Family, wrap: type[nn.Module]) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family)
    outer = wrap(model)
    assert_loaded_whole(outer, outer.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        outer.load_state_dict({}, strict=True)


@families("llama")
def test_a_state_that_lacks_base_weights_is_still_refused(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family)
    state = model.state_dict()
    state.pop("model.norm.weight")
    with pytest.raises(RuntimeError, match=r"Missing key.*model\.norm\.weight"):
        model.load_state_dict(state)


@pytest.mark.parametrize("family", [f for n, f in FAMILIES.items() if n != "t5-gated"], ids=lambda f: f.name)
def test_save_pretrained_writes_the_base_alone(family: Family, tmp_path: Path) -> None:
    model = family.model()
    expected, base = values(model), family.forward(model)
    attach(model, ROWS["lora"], family, seed=1)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert_bit_identical(values(again), expected)
    torch.testing.assert_close(family.forward(again), base)
    assert not any("deltatune" in path.read_text(errors="ignore") for path in tmp_path.glob("*.json"))


@families("bert", "t5", "llama", "gpt2", "unet")
@every_method
def test_a_deep_copy_is_independent(family: Family, row: Row) -> None:
    model = family.model()
    base = family.forward(model)
    delta = attach(model, row, family, "a", seed=1)
    changed = family.forward(model)
    copied = copy.deepcopy(model)
    twin = dt.deltas(copied)["a"]
    assert twin.model is copied
    assert torch.equal(family.forward(copied), changed)
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in model.parameters()}

    train_step(copied, family)
    assert torch.equal(family.forward(model), changed)
    with dt.disabled(copied):
        assert torch.equal(family.forward(copied), base)
        assert torch.equal(family.forward(model), changed)
    twin.disable()
    assert torch.equal(family.forward(copied), base)
    assert torch.equal(family.forward(model), changed)

    dt.detach(copied)
    assert torch.equal(family.forward(copied), base)
    assert torch.equal(family.forward(model), changed)
    assert delta.model is model
    assert fingerprint(copied) | {"objects": None} == fingerprint(family.model()) | {"objects": None}
    dt.detach(model)
    assert torch.equal(family.forward(model), base)


@families("llama")
def test_a_copy_of_a_delta_alone_is_detached(family: Family) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, "a", seed=1)
    changed = family.forward(model)
    lone = copy.deepcopy(delta)
    with pytest.raises(AttachError, match="detached"):
        _ = lone.model
    stir(lone)
    assert torch.equal(family.forward(model), changed)


@families("bert")
def test_a_delta_trained_on_a_head_copies_nothing_of_other_deltas(family: Family) -> None:
    # The head is copied to be trained; by then a hook of the first delta hangs on it.
    model = family.model()
    first = attach(model, ROWS["lora"], family, "a")
    second = attach(model, ROWS["lora"], family, "b")
    assert {name for name, _ in first.named_parameters()} == {name for name, _ in second.named_parameters()}
    assert not any("deltatune" in name for name, _ in second.named_modules())
    base = family.forward(model)
    stir(second, seed=1)
    dt.disable(model, "b")
    torch.testing.assert_close(family.forward(model), base)
