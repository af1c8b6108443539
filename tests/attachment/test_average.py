"""Averages of deltas: true weighted means, of any method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import AttachError
from deltatune.methods.base import Method
from tests.models.families import FAMILIES
from tests.models.tools import stir

LLAMA = FAMILIES["llama"]
METHODS: list[Method] = [
    dt.LoRA(r=2),
    dt.LoRA(r=2, init="pissa"),
    dt.BitFit(add_missing=True),
    dt.IA3(),
    dt.Norm(),
    dt.Pfeiffer(m=3),
    dt.Parallel(m=3),
    dt.Houlsby(m=3),
]


def pair(model: nn.Module, method: Method) -> nn.Module:
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        stir(dt.attach(model, method, name=name), seed)
    return model


def tensors(delta: Delta) -> dict[str, torch.Tensor]:
    return {
        f"{site}.{name}": tensor
        for site, part in delta.items()
        for name, tensor in part.export(delta.model.get_submodule(site)).items()
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.key)
def test_every_tensor_is_the_weighted_mean(method: Method) -> None:
    model = pair(LLAMA.model(), method)
    a, b = dt.deltas(model).values()
    mean = dt.average(model, {"a": 0.7, "b": 0.3}, name="ab")
    expected = {name: 0.7 * tensor + 0.3 * tensors(b)[name] for name, tensor in tensors(a).items()}
    assert tensors(mean).keys() == expected.keys()
    for name, tensor in tensors(mean).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


def test_weights_are_shares() -> None:
    """Seven parts to three, or all to one alone: the sum of the weights does not matter."""
    model = pair(LLAMA.model(), dt.Pfeiffer(m=3))
    shares = tensors(dt.average(model, {"a": 0.7, "b": 0.3}, name="shares"))
    parts = tensors(dt.average(model, {"a": 7, "b": 3}, name="parts"))
    equal = tensors(dt.average(model, ["a", "b"], name="equal"))
    halves = tensors(dt.average(model, {"a": 2, "b": 2}, name="halves"))
    for name in shares:
        torch.testing.assert_close(parts[name], shares[name])
        torch.testing.assert_close(halves[name], equal[name])
    alone = dt.average(model, {"a": 1, "b": 0}, name="alone")
    assert all(torch.equal(tensor, tensors(dt.deltas(model)["a"])[name]) for name, tensor in tensors(alone).items())


@pytest.mark.parametrize("count", [1, 3])
def test_equal_deltas_average_to_themselves(count: int) -> None:
    model = LLAMA.model()
    for number in range(count):
        torch.manual_seed(0)
        stir(dt.attach(model, dt.Pfeiffer(m=3), name=f"run{number}"))
    dt.disable(model)
    dt.enable(model, "run0")
    expected = LLAMA.forward(model)
    dt.average(model, [f"run{number}" for number in range(count)])
    torch.testing.assert_close(LLAMA.forward(model), expected, rtol=1e-5, atol=1e-5)


def test_where_effects_are_linear_so_is_their_mean() -> None:
    """The mean of IA³ vectors, merged, is the mean of the merged weights."""
    model = pair(LLAMA.model(), dt.IA3(targets=("value",)))
    weights = {}
    for name in "ab":
        dt.merge(model, name)
        weights[name] = model.model.layers[0].self_attn.v_proj.weight.detach().clone()
        dt.unmerge(model)
    dt.average(model, ["a", "b"], name="ab")
    dt.merge(model, "ab")
    mean = (weights["a"] + weights["b"]) / 2
    torch.testing.assert_close(model.model.layers[0].self_attn.v_proj.weight.detach(), mean)


def test_it_stands_in_for_its_sources(tmp_path: Path) -> None:
    model = pair(LLAMA.model(), dt.Pfeiffer(m=3))
    mean = dt.average(model, ["a", "b"], name="ab")
    assert [delta.enabled for delta in dt.deltas(model).values()] == [False, False, True]
    assert not mean.is_trainable
    expected = LLAMA.forward(model)
    dt.save(mean, tmp_path)
    fresh = LLAMA.model()
    dt.load(fresh, tmp_path)
    torch.testing.assert_close(LLAMA.forward(fresh), expected, rtol=1e-5, atol=1e-5)


def test_refuses_what_has_no_mean() -> None:
    model = pair(LLAMA.model(), dt.Pfeiffer(m=3))
    dt.attach(model, dt.Pfeiffer(m=4), name="wide")
    dt.attach(model, dt.LoRA(), name="lora")
    before = list(dt.deltas(model))
    for names, message in [
        (["a", "wide"], "to differ in m;"),
        (["a", "lora"], r"to differ in the method \(pfeiffer, lora\)"),
        (["a", "nope"], "'nope'"),
        ([], "positive sum"),
        ({"a": 1, "b": -1}, "positive sum"),
        ({"a": 0}, "positive sum"),
        ({"a": float("nan")}, "positive sum"),
    ]:
        with pytest.raises(AttachError, match=message) as error:
            dt.average(model, names, name="mean")  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(AttachError, match="taken"):
        dt.average(model, ["a", "b"], name="a")
    assert list(dt.deltas(model)) == before
    assert all(delta.enabled for delta in dt.deltas(model).values())
