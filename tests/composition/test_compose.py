"""Deltas of one model as one delta."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deltatune as dt
from deltatune.composition.rules import Choice
from deltatune.composition.ways import WAYS
from deltatune.errors import AttachError, ConfigError, MergeError
from deltatune.methods.base import Method
from tests.composition.deltas import ALIKE, LLAMA, TWO, assert_same_changes, attached, changes, summed
from tests.models.families import FAMILIES, Family
from tests.models.tools import assert_close, families

WEIGHTS = {"a": 0.7, "b": -0.3}
EXACT: dict[str, dict[str, Any]] = {"cat": {}, "svd": {"rank": 6}}
FEW = families("bert", "t5", "llama", "gpt2")


def settings_of(how: str) -> dict[str, Any]:
    return {"density": 0.5} if WAYS[how].chooses else {}  # type: ignore[index]


def methods_for(family: Family) -> dict[str, Method]:
    sites = [family.targets, (*family.queries, "mlp_down")]
    return {name: dt.LoRA(r=r, targets=t, train_also=()) for name, r, t in zip("ab", (4, 2), sites, strict=True)}


@pytest.mark.parametrize("how", EXACT)
@FEW
def test_the_exact_ways_are_the_sum(family: Family, how: Any) -> None:
    model = attached(methods_for(family), family)
    expected = summed(model, WEIGHTS)
    made = dt.compose(WEIGHTS, how, model=model, **EXACT[how])
    assert made.delta is not None
    assert_same_changes(changes(made.delta), expected)
    assert made.error < 1e-9
    dt.disable(model)
    dt.merge(model, WEIGHTS)
    merged = family.forward(model)
    dt.unmerge(model)
    made.delta.enable()
    assert_close(family.forward(model), merged, 1e-9)


@settings(deadline=None, max_examples=8)
@given(st.floats(-2, 2), st.floats(-2, 2))
def test_the_exact_ways_are_the_sum_for_any_weights(a: float, b: float) -> None:
    model = attached()
    for weights in ({"a": a, "b": b}, {"b": b, "a": a}):
        made = dt.compose(weights, "cat", model=model)
        assert made.delta is not None
        assert_same_changes(changes(made.delta), summed(model, weights))
        dt.detach(model, "composed")


def test_svd_is_the_best_of_its_rank() -> None:
    model = attached()
    expected = summed(model, WEIGHTS)
    made = dt.compose(WEIGHTS, "svd", model=model, rank=2)
    assert made.delta is not None
    assert made.rank == made.delta.method.r == 2  # type: ignore[attr-defined]
    found = changes(made.delta)
    lost = size = 0.0
    for site, change in expected.items():
        tail = torch.linalg.svdvals(change)[2:]
        assert made.losses[site].lost == pytest.approx(float(tail.norm()), abs=1e-9)
        assert float((found[site] - change).norm()) == pytest.approx(float(tail.norm()), abs=1e-9)
        lost, size = lost + float(tail.norm()) ** 2, size + float(change.norm()) ** 2
    assert made.error == pytest.approx(math.sqrt(lost / size))
    assert made.kept == pytest.approx(1 - lost / size)


@pytest.mark.parametrize("how", WAYS)
def test_errors_are_distances_from_what_is_stood_for(how: Any) -> None:
    model = attached()
    made = dt.compose(WEIGHTS, how, model=model, **settings_of(how))
    assert made.delta is not None
    assert not made.delta.is_trainable
    assert [delta.enabled for delta in dt.deltas(model).values()] == [False, False, True]
    if WAYS[how].on != "effects":
        found, expected = changes(made.delta), summed(model, WEIGHTS)
        for site, change in expected.items():
            assert made.losses[site].size == pytest.approx(float(change.norm()))
            assert made.losses[site].lost == pytest.approx(float((found[site] - change).norm()), abs=1e-9)


@pytest.mark.parametrize("how", [how for how, way in WAYS.items() if way.on == "effects"])
def test_ways_on_effects_follow_their_rule_at_full_rank(how: Any) -> None:
    model = attached()
    made = dt.compose(WEIGHTS, how, model=model, rank=32, **settings_of(how))
    assert made.error < 1e-12
    if "dare" in how:
        return  # its draws are the rule's own
    choice = Choice(0.5)
    assert made.delta is not None
    for site, found in changes(made.delta).items():
        acting = {n: changes(dt.deltas(model)[n])[site] for n in "ab" if site in dict(dt.deltas(model)[n].items())}
        rule = WAYS[how].rule
        expected = rule(list(acting.values()), [WEIGHTS[name] for name in acting], choice)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_cross_terms_of_the_factor_ways() -> None:
    """One delta alone keeps its weight in `linear`, and gets its square in `factors`; two get cross terms."""
    model = attached(ALIKE)
    alone = changes(dt.deltas(model)["a"])
    for how, share in (("linear", 0.5), ("factors", 0.25)):
        made = dt.compose({"a": 0.5}, how, model=model)  # type: ignore[arg-type]
        assert made.delta is not None
        assert_same_changes(changes(made.delta), {site: share * change for site, change in alone.items()})
        dt.detach(model, "composed")
    made = dt.compose({"a": 0.5, "b": 0.5}, "factors", model=model)
    mean = dt.average(model, ["a", "b"])
    assert made.delta is not None
    assert_same_changes(changes(made.delta), changes(mean))
    assert made.error > 0.1


@pytest.mark.parametrize("how", ["cat", "linear", "ties", "magnitude", "svd", "ties_svd"])
def test_the_order_of_deltas_does_not_matter(how: Any) -> None:
    model = attached()
    one = dt.compose({"a": 0.7, "b": 0.3}, how, model=model, name="one", **settings_of(how))
    two = dt.compose({"b": 0.3, "a": 0.7}, how, model=model, name="two", **settings_of(how))
    assert one.delta is not None
    assert two.delta is not None
    assert_same_changes(changes(one.delta), changes(two.delta), 1e-8)


def test_padding_is_not_stacked() -> None:
    """What was composed may be composed again: its zeros cost no rank."""
    model = attached()
    first = dt.compose(["a", "b"], model=model, name="first")
    assert first.rank == 6
    expected = summed(model, {"first": 1, "a": -1})
    again = dt.compose({"first": 1, "a": -1, "b": 0}, model=model)
    assert again.rank == 10
    assert again.delta is not None
    assert_same_changes(changes(again.delta), expected)
    nothing = dt.compose({"a": 0}, model=model, name="nothing")
    assert (nothing.rank, nothing.error) == (1, 0)


def test_dare_is_seeded() -> None:
    model = attached()
    made = [
        dt.compose(["a", "b"], "dare", model=model, density=0.5, seed=seed, name=f"n{number}").delta
        for number, seed in enumerate((1, 1, 2))
    ]
    one, same, other = (changes(delta) for delta in made if delta is not None)
    assert_same_changes(same, one, 0)
    assert any(not torch.equal(other[site], one[site]) for site in one)


def test_negation_takes_a_delta_away() -> None:
    model = attached()
    dt.disable(model, "b")
    with dt.disabled(model):
        base = LLAMA.forward(model)
    assert float((LLAMA.forward(model) - base).abs().max()) > 0.01
    made = dt.compose({"a": -1}, model=model, name="minus")
    dt.enable(model, "a")
    assert made.delta is not None
    assert_close(LLAMA.forward(model), base, 1e-9)


def test_analogy() -> None:
    model = attached({**TWO, "c": dt.LoRA(r=3, targets=("key",))})
    weights = {"c": 1, "b": 1, "a": -1}
    made = dt.compose(weights, model=model)
    assert made.delta is not None
    assert_same_changes(changes(made.delta), summed(model, weights))


# What else changes.


def test_biases_and_whole_modules_are_added_up() -> None:
    family = FAMILIES["bert"]
    model = attached({name: dt.LoRA(r=2, bias="lora_only") for name in "ab"}, family)
    base = {name: p.detach().clone() for name, p in model.classifier.named_parameters()}
    bias = "bert.encoder.layer.0.attention.self.query"
    parts = {name: dict(dt.deltas(model)[name].items()) for name in "ab"}
    made = dt.compose(WEIGHTS, "ties", model=model, density=0.5)
    assert made.delta is not None
    composed = dict(made.delta.items())
    expected = sum(WEIGHTS[name] * parts[name][bias].shift.delta for name in "ab")
    torch.testing.assert_close(composed[bias].shift.delta, expected)
    for name, start in base.items():
        change = sum(WEIGHTS[each] * (parts[each]["classifier"].copy.get_parameter(name) - start) for each in "ab")
        torch.testing.assert_close(composed["classifier"].copy.get_parameter(name), start + change)
    left = dt.compose(WEIGHTS, model=model, rest="leave", name="left")
    assert left.delta is not None
    assert all("classifier" not in site for site in left.delta.sites)
    with pytest.raises(ConfigError, match=r"a: expected changes of matrices alone, found others at .* and \d+ more"):
        dt.compose(WEIGHTS, model=model, rest="refuse", name="refused")


def test_biases_everywhere_stay() -> None:
    family = FAMILIES["bert"]
    model = attached({"a": dt.LoRA(r=2, bias="all", train_also=())}, family)
    expected = family.forward(model)
    made = dt.compose(["a"], model=model)
    assert made.delta is not None
    assert_close(family.forward(model), expected, 1e-9)


def test_a_module_that_one_trains_whole_and_another_adapts() -> None:
    family = FAMILIES["bert"]
    methods = {"a": dt.LoRA(r=2), "b": dt.LoRA(r=2, targets=("classifier",), train_also=())}
    with pytest.raises(ConfigError, match="classifier: expected one way to train it"):
        dt.compose(["a", "b"], model=attached(methods, family))


# Any method as a LoRA.

CONVERTED: dict[str, Method] = {
    "lora-pissa": dt.LoRA(r=2, init="pissa"),
    "adalora": dt.AdaLoRA(init_r=4, target_r=2),
    "relora": dt.ReLoRA(r=3, restart_every=2, restart_warmup=1),
    "dora": dt.DoRA(r=3),
    "child": dt.ChildTuning(mode="random", p=0.3),
    "full": dt.ChildTuning(mode="F", p=1.0, targets=("all",)),
    "ia3": dt.IA3(),
    "peft": dt.PeftMethod(config={"peft_type": "OFT", "oft_block_size": 4}, targets=("query", "value")),
}


@pytest.mark.parametrize("key", CONVERTED)
@families("bert", "llama", "gpt2", "qwen2")
def test_any_delta_of_the_weights_is_a_lora_of_full_rank(family: Family, key: str) -> None:
    method = CONVERTED[key]
    if family.name == "gpt2" and key == "peft":
        pytest.skip("PEFT's OFT knows no Conv1D")
    if family.name == "gpt2" and key in ("lora-pissa", "dora", "ia3"):
        method = dataclasses.replace(method, targets=("c_attn", "mlp_down"))
    model = attached({"a": method}, family)
    with torch.no_grad():
        expected = family.forward(model)
    made = dt.compose(["a"], "svd", model=model, rank=200)
    assert made.delta is not None
    assert type(made.delta.method) is dt.LoRA
    assert made.error < 1e-9
    assert_close(family.forward(model), expected, 1e-5 if key == "full" else 1e-8)  # some norms compute in float32
    small = dt.compose(["a"], "svd", model=model, rank=1, name="small")
    assert small.rank == 1
    assert 0 < small.error < 1


def test_of_different_methods() -> None:
    model = attached({"a": dt.LoRA(r=2), "b": dt.DoRA(r=2), "c": dt.AdaLoRA(init_r=3, target_r=1)})
    dt.disable(model)
    dt.merge(model, "b")
    site = "model.layers.0.self_attn.q_proj"
    after = model.get_submodule(site).weight.detach().clone()
    dt.unmerge(model)
    change = after - model.get_submodule(site).weight.detach()
    linear = summed(model, {"a": 1, "c": 1})[site]
    made = dt.compose(["a", "b", "c"], "svd", model=model, rank=32)
    assert made.delta is not None
    torch.testing.assert_close(changes(made.delta)[site], linear + change, rtol=1e-9, atol=1e-9)


# Refusals.

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "way": ({"how": "sum"}, "how: expected one of cat, .* found 'sum'"),
    "search": ({"how": "lorahub"}, "found 'lorahub'; call dt.lorahub"),
    "rank": ({"how": "svd", "rank": 0}, "rank: expected a whole number from 1, found 0"),
    "rank of cat": ({"rank": 4}, "rank with how='cat': expected none"),
    "no density": ({"how": "ties"}, "density with how='ties': expected a share"),
    "density": ({"how": "ties", "density": 1.5}, "found 1.5"),
    "density of cat": ({"density": 0.5}, "density with how='cat': expected none"),
    "sign": ({"how": "ties", "density": 0.5, "sign": "all"}, "sign: expected one of"),
    "rest": ({"rest": "drop"}, "rest: expected one of"),
    "weight": ({"weights": {"a": math.nan}}, "finite weights"),
    "nothing": ({"weights": {}}, "found none"),
    "nowhere": ({"model": None}, "found neither; pass model or out"),
    "both": ({"out": "folder"}, "found both"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    given, message = BAD[case]
    model = attached()
    with pytest.raises(ConfigError, match=message) as error:
        dt.compose(**{"weights": ["a", "b"], "model": model, **given})
    assert "\n" not in str(error.value)
    assert all(delta.enabled for delta in dt.deltas(model).values())


def test_what_has_no_factors_or_no_form_as_weights() -> None:
    model = attached({"a": dt.DoRA(r=2), "b": dt.Pfeiffer(m=4), "c": dt.LoRA(r=2), "d": dt.BitFit(add_missing=True)})
    with pytest.raises(ConfigError, match="product of two factors"):
        dt.compose(["a"], model=model)
    with pytest.raises(ConfigError, match="expected a rank"):
        dt.compose(["a", "c"], "svd", model=model)
    with pytest.raises(MergeError, match="no weight of the base can stand for it"):
        dt.compose(["b"], model=model)
    with pytest.raises(ConfigError, match="expected deltas that change matrices"):
        dt.compose(["d"], model=model)
    with pytest.raises(AttachError, match="'nope'"):
        dt.compose(["nope"], model=model)
    with pytest.raises(AttachError, match="taken"):
        dt.compose(["c"], model=model, name="a")
    assert list(dt.deltas(model)) == ["a", "b", "c", "d"]
    assert all(delta.enabled for delta in dt.deltas(model).values())
