"""BitFit against a base whose own biases train, in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import deltatune as dt
from deltatune.errors import MergeError, SiteError
from tests.methods.training import answers, assert_close, backward, doubled, losses
from tests.models.families import DECODER, FAMILIES, Family
from tests.models.tools import assert_bit_identical, families, fingerprint, stir, values


def biases(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Every parameter named bias, tied ones once, without those of a task head."""
    return {n: p for n, p in model.named_parameters() if n.endswith(".bias") and not n.startswith("classifier.")}


def test_minilm_figure() -> None:
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=30522
    )
    with torch.device("meta"):
        model = transformers.BertModel(config)
    delta = dt.attach(model, dt.BitFit())
    assert (delta.size, dt.summary(model).base_parameters) == (26_112, 22_713_216)
    assert f"{dt.summary(model).deltas[0].share:.3%}" == "0.115%"


@families("bert", "bert-mlm", "gpt2", "qwen2", "vit", "clip", "unet")
def test_equals_a_base_whose_biases_train(family: Family) -> None:
    model, inputs = doubled(family)
    reference, _ = doubled(family)
    delta = stir(dt.attach(model, dt.BitFit(train_also=())))
    trained = biases(reference)
    assert delta.size == sum(bias.numel() for bias in trained.values())

    reference.requires_grad_(False)
    owners = {id(bias): bias for bias in trained.values()}
    pairs = [(part.delta, reference.get_submodule(site).bias) for site, part in delta.items()]
    assert {id(bias) for _, bias in pairs} == owners.keys()
    for shift, bias in pairs:
        bias.requires_grad_(True)
        with torch.no_grad():
            bias.add_(shift)

    assert_close(answers(family, model, inputs), answers(family, reference, inputs))
    backward(family, model, inputs)
    backward(family, reference, inputs)
    for (site, _), (shift, bias) in zip(delta.items(), pairs, strict=True):
        if bias.grad is None:  # not used for this answer
            assert shift.grad is None, site
        else:
            assert_close(shift.grad, bias.grad)


def test_the_head_trains_whole_and_gets_no_shift() -> None:
    model = FAMILIES["bert"].model()
    delta = dt.attach(model, dt.BitFit())
    assert type(dict(delta.items())["classifier"]).__name__ == "Replacement"
    dt.detach(model)
    assert "classifier" not in dt.attach(model, dt.BitFit(train_also=())).sites


def test_targets_choose_the_terms() -> None:
    model = FAMILIES["bert"].model()
    two = dt.attach(model, dt.BitFit(targets=("query", "mlp_up"), train_also=()), name="two")
    assert two.size == 2 * (32 + 48)
    norms = dt.attach(model, dt.BitFit(targets=("norm",), layers="first:1", train_also=()), name="norms")
    assert norms.size == 2 * 32


@families("llama", "t5", "qwen3")
def test_a_base_without_biases_is_refused_with_the_way_out(family: Family) -> None:
    model = family.model()
    before = fingerprint(model)
    with pytest.raises(SiteError, match="expected a module with a bias, or add_missing=True") as error:
        dt.attach(model, dt.BitFit())
    assert "\n" not in str(error.value)
    assert fingerprint(model) == before


def test_missing_biases_are_those_of_the_class() -> None:
    """LLaMA's own class can have all these biases: the reference has them as its parameters."""
    family = FAMILIES["llama"]
    model, inputs = doubled(family)
    reference = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**DECODER, attention_bias=True, mlp_bias=True)
    ).double()
    missing, extra = reference.load_state_dict(model.state_dict(), strict=False)
    delta = stir(dt.attach(model, dt.BitFit(add_missing=True)))
    assert extra == []
    assert sorted(missing) == sorted(f"{site}.bias" for site in delta.sites)  # the head of words has none
    for site, part in delta.items():
        reference.get_submodule(site).bias.data.copy_(part.delta)
    assert_close(answers(family, model, inputs), answers(family, reference.eval(), inputs))


def test_missing_biases_join_those_that_are_there() -> None:
    model = FAMILIES["qwen2"].model()
    assert len(dt.attach(model, dt.BitFit(), name="own").sites) == 2 * 3
    assert len(dt.attach(model, dt.BitFit(add_missing=True), name="all").sites) == 2 * 7


def test_merge_adds_biases_and_unmerge_removes_them() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    before, tensors = fingerprint(model), values(model)
    for seed, name in enumerate("ab"):
        stir(dt.attach(model, dt.BitFit(add_missing=True), name=name), seed)
    expected = family.forward(model)
    with pytest.warns(UserWarning, match="new parameters; LlamaForCausalLM.from_pretrained will not read them back"):
        done = dt.merge(model)
    assert len(done.added) == 2 * 7  # layers, projections
    assert model.get_parameter("model.layers.0.mlp.up_proj.bias").shape == (48,)
    torch.testing.assert_close(family.forward(model), expected, rtol=1e-5, atol=1e-5)
    dt.unmerge(model)
    assert model.get_submodule("model.layers.0.mlp.up_proj").bias is None
    torch.testing.assert_close(family.forward(model), expected, rtol=1e-6, atol=1e-6)
    dt.detach(model)
    assert fingerprint(model) == before
    assert_bit_identical(values(model), tensors)


def test_half_a_merge_adds_half_the_bias() -> None:
    model = FAMILIES["llama"].model()
    delta = stir(dt.attach(model, dt.BitFit(targets=("query",), add_missing=True)))
    with pytest.warns(UserWarning, match="new parameters"):
        dt.merge(model, {"default": 0.5})
    site, part = next(delta.items())
    torch.testing.assert_close(model.get_parameter(f"{site}.bias"), part.delta / 2, check_dtype=False)


def test_a_merge_that_fails_later_takes_added_biases_back() -> None:
    model = FAMILIES["llama"].model()
    stir(dt.attach(model, dt.BitFit(add_missing=True), name="biases"))
    dt.attach(model, dt.Pfeiffer(), name="adapter")
    before = values(model)
    with pytest.raises(MergeError, match="activation"):
        dt.merge(model)
    assert_bit_identical(values(model), before)


@families("bert", "llama")
def test_saved_and_loaded(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.BitFit(add_missing=family.name == "llama")))
    expected = family.forward(model)
    dt.save(delta, tmp_path)
    fresh = family.model()
    loaded = dt.load(fresh, tmp_path)
    assert loaded.method == delta.method
    torch.testing.assert_close(family.forward(fresh), expected, rtol=1e-5, atol=1e-6)


def test_small_steps_add_up_in_half_precision() -> None:
    """Each is less than the distance of 1 to the next number in bfloat16."""
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4)).to(torch.bfloat16)
    layer[0].bias.data.fill_(1)
    (shift,) = dt.attach(layer, dt.BitFit()).parameters()
    with torch.no_grad():
        for _ in range(16):
            shift.add_(1e-3)
    out = layer(torch.zeros(1, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    assert out.tolist() == [[1.015625] * 4]


@families("bert", "gpt2")
def test_it_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.BitFit())
    before, after = losses(family, model, lr=0.05)
    assert after < 0.7 * before


def test_norms_that_have_their_features_first() -> None:
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[4, 8], depths=[1, 1], num_labels=2)
    model, image = transformers.ConvNextForImageClassification(config).eval(), torch.randn(2, 3, 32, 32)
    delta = stir(dt.attach(model, dt.BitFit()))
    with_delta = model(image).logits
    dt.merge(model)
    torch.testing.assert_close(model(image).logits, with_delta)
    assert delta.merged
