"""AdapterFusion against its equation, token by token, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.errors import AttachError, ConfigError, MergeError
from deltatune.methods.fusion import FusionPart
from tests.methods.test_houlsby import adapter, into_llama
from tests.methods.training import answers, assert_close, backward, doubled, losses
from tests.models.families import FAMILIES, Family
from tests.models.tools import families, stir


def with_adapters(model: nn.Module, names: str = "abc", **settings: Any) -> nn.Module:
    for seed, name in enumerate(names):
        stir(dt.attach(model, dt.Pfeiffer(m=4, **settings), name=name), seed, size=0.5)
    return model


def fused(part: Any) -> Any:
    """The equation s = softmax((Q h)·(K z_n)), h' = h + Σ s_n V z_n, for one token after the other."""
    adapters = [adapter(each, "relu") for each in part.adapters]
    Q, K, V = (p.detach().clone().requires_grad_() for p in (part.Q, part.K, part.V))

    def one(h: Tensor) -> Tensor:
        z = [A(h) for A in adapters]
        s = torch.softmax(torch.stack([(Q @ h) @ (K @ each) for each in z]), dim=0)
        return sum((weight * (V @ each) for weight, each in zip(s, z, strict=True)), torch.zeros_like(h))

    def A(h: Tensor) -> Tensor:
        return torch.stack([one(token) for token in h.flatten(0, -2)]).view(h.shape)

    A.leaves = {"Q": Q, "K": K, "V": V}  # type: ignore[attr-defined]
    return A


def test_the_equation() -> None:
    family = FAMILIES["llama"]
    model, inputs = doubled(family)
    reference, _ = doubled(family)
    delta = stir(dt.fuse(with_adapters(model), "abc"), 7)
    written = {site: fused(part) for site, part in delta.items()}
    into_llama(reference, written)
    assert_close(answers(family, model, inputs), answers(family, reference, inputs))
    backward(family, model, inputs)
    backward(family, reference, inputs)
    for site, part in delta.items():
        for name, leaf in written[site].leaves.items():
            assert_close(part.get_parameter(name).grad, leaf.grad)


@families("bert", "t5", "llama", "gpt2")
def test_fresh_adapters_start_as_the_base(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    adapters = {name: {"method": "pfeiffer", "m": 4} for name in "ab"}
    delta = dt.attach(model, dt.Fusion(adapters=adapters, train_also=()))
    torch.testing.assert_close(family.forward(model), base, rtol=0, atol=0)
    assert delta.size == (4 if family.name == "t5" else 2) * 3 * 32**2  # Q, K and V; what is frozen is no parameter


def test_equal_adapters_fuse_to_themselves() -> None:
    """V starts as the identity and the weights sum to one."""
    family = FAMILIES["llama"]
    model, inputs = doubled(family)
    with_adapters(model, "a")
    expected = answers(family, model, inputs)
    twin = dt.attach(model, dt.Pfeiffer(m=4), name="b")
    twin.load_state_dict(dt.deltas(model)["a"].state_dict())
    dt.fuse(model, ["a", "b"])
    assert_close(answers(family, model, inputs), expected)


def test_only_the_attention_trains() -> None:
    family = FAMILIES["llama"]
    model = with_adapters(family.model(), "ab")
    delta = dt.fuse(model, ["a", "b"]).unfreeze()
    frozen = {name: buffer.clone() for name, buffer in delta.named_buffers() if "W_" in name}
    before = {name: parameter.detach().clone() for name, parameter in delta.named_parameters()}
    dt.detach(model, "a")
    dt.detach(model, "b")
    start, end = losses(family, model, lr=0.02)
    assert end < start
    assert len(frozen) == 2 * 2 * 2  # layers, adapters, matrices
    assert all(torch.equal(buffer, frozen[name]) for name, buffer in delta.named_buffers() if name in frozen)
    assert not any(torch.equal(parameter, before[name]) for name, parameter in delta.named_parameters())


def test_the_adapters_are_copied_and_turned_off() -> None:
    family = FAMILIES["llama"]
    model = with_adapters(family.model(), "ab")
    delta = dt.fuse(model, ["a", "b"], name="ab")
    assert [each.enabled for each in dt.deltas(model).values()] == [False, False, True]
    expected = family.forward(model)
    with torch.no_grad():
        for parameter in dt.deltas(model)["a"].parameters():
            parameter.zero_()
    torch.testing.assert_close(family.forward(model), expected, rtol=0, atol=0)
    assert list(delta.method.to_config()["adapters"]) == ["a", "b"]


@families("bert", "llama")
def test_a_file_has_all_of_it(family: Family, tmp_path: Path) -> None:
    model = with_adapters(family.model(), layer_norm=True)
    delta = stir(dt.fuse(model, "abc"), 3)
    dt.save(delta, tmp_path)
    fresh = family.model()
    loaded = dt.load(fresh, tmp_path)
    assert loaded.method == delta.method
    torch.testing.assert_close(family.forward(fresh), family.forward(model), rtol=1e-5, atol=1e-5)


def test_a_classifier_gets_a_head_of_its_own() -> None:
    model = with_adapters(FAMILIES["bert"].model(), "ab")
    delta = dt.fuse(model, ["a", "b"])
    assert [site for site, part in delta.items() if not isinstance(part, FusionPart)] == ["classifier"]


def test_rows_can_take_the_fusion_or_an_adapter() -> None:
    family = FAMILIES["llama"]
    model = with_adapters(family.model(), "ab")
    stir(dt.fuse(model, ["a", "b"], name="ab"), 5)
    dt.enable(model)
    with dt.routed(model, ["ab", "a", None]):
        mixed = family.forward(model)
    for row, route in enumerate(["ab", "a", None]):
        with dt.routed(model, [route]):
            torch.testing.assert_close(mixed[row : row + 1], family.rows(model, [row]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (dt.LoRA(), "nothing but adapters"),
        (dt.Parallel(), "nothing but adapters"),
        (dt.Houlsby(m=4), "train_norms=False"),
        (dt.Pfeiffer(m=4, layers=0), "the 2 sites of 'a'"),
    ],
)
def test_refuses_what_it_can_not_fuse(method: dt.Method, message: str) -> None:
    model = with_adapters(FAMILIES["llama"].model(), "a")
    dt.attach(model, method, name="b")
    with pytest.raises(ConfigError, match=message) as error:
        dt.fuse(model, ["a", "b"])
    assert "\n" not in str(error.value)
    assert list(dt.deltas(model)) == ["a", "b"]
    assert dt.deltas(model)["a"].enabled


def test_houlsby_without_norms_can_be_fused() -> None:
    model = FAMILIES["llama"].model()
    for name in "ab":
        stir(dt.attach(model, dt.Houlsby(m=4, train_norms=False), name=name))
    assert len(dt.fuse(model, ["a", "b"]).sites) == 4


def test_refuses_bad_settings_names_and_merges() -> None:
    with pytest.raises(ConfigError, match="at least one adapter"):
        dt.Fusion()
    with pytest.raises(ConfigError, match="unknown setting"):
        dt.Fusion(adapters={"a": {"method": "pfeiffer", "n": 3}})
    with pytest.raises(ConfigError, match=r"fusion\.layers"):
        dt.Fusion(adapters={"a": {"method": "pfeiffer"}}, layers=1)
    model = with_adapters(FAMILIES["llama"].model(), "ab")
    with pytest.raises(AttachError, match="'c'"):
        dt.fuse(model, ["a", "c"])
    with pytest.raises(AttachError, match="taken"):
        dt.fuse(model, ["a", "b"], name="a")
    dt.fuse(model, ["a", "b"])
    with pytest.raises(MergeError, match="activation"):
        dt.merge(model)
