"""The base a delta was made on: known again in another precision, told from every other."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import deltatune as dt
from deltatune.errors import BaseMismatchError
from deltatune.io.identity import check_base, identify
from deltatune.methods.lora import LoRA
from tests.models.families import DECODER, FAMILIES, Family
from tests.models.methods import ROWS
from tests.models.tools import attach, every_family, families, fingerprint, stir

PRECISIONS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@every_family
@pytest.mark.parametrize("made_on", PRECISIONS[:3])
def test_a_base_is_known_again_in_every_precision(family: Family, made_on: torch.dtype) -> None:
    identity = identify(family.model().to(made_on))
    for precision in PRECISIONS:
        # What was made on a copy of low precision was made on the rounded weights, wherever they are kept now.
        check_base(family.model().to(made_on).to(precision), identity)
        if precision != torch.float64:
            check_base(family.model().to(precision), identity)


@every_family
def test_other_weights_are_refused_whichever_they_are(family: Family) -> None:
    identity = identify(family.model())
    for changed in list(identity["sample"])[:: max(1, len(identity["sample"]) // 4)]:
        model = family.model()
        model.get_parameter(changed).data.mul_(1.01)
        with pytest.raises(BaseMismatchError, match=f"base weights: {changed} differs"):
            check_base(model, identity)


def test_a_fine_tuned_copy_is_refused_though_its_norms_and_embeddings_are_the_same() -> None:
    family = FAMILIES["llama"]
    model, identity = family.model(), identify(family.model())
    for name, parameter in model.named_parameters():
        if "proj" in name:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.01)
    with pytest.raises(BaseMismatchError, match=r"base weights: .*proj\.weight differs"):
        check_base(model, identity)


def test_mixed_precisions_are_compared_one_by_one() -> None:
    model = FAMILIES["llama"].model()
    mixed = copy.deepcopy(model).to(torch.bfloat16)
    for module in mixed.modules():
        if "Norm" in type(module).__name__:
            module.to(torch.float32)
    mixed.model.norm.weight.data.copy_(model.model.norm.weight)
    half = copy.deepcopy(mixed).to(torch.bfloat16)
    check_base(half, identify(mixed))
    check_base(mixed, identify(half))


@families("llama", "bert")
@pytest.mark.parametrize(("made_on", "put_on"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_delta_is_put_on_the_same_base_in_another_precision(
    family: Family, made_on: str, put_on: str, tmp_path: Path
) -> None:
    model = family.model().to(getattr(torch, made_on))
    dt.save(attach(model, ROWS["lora"], family, seed=1), tmp_path)
    expected = family.forward(model).float()
    other = family.model().to(getattr(torch, put_on))
    dt.load(other, tmp_path)
    assert (family.forward(other).float() - expected).abs().max() < 0.1 * expected.abs().max()


def other_weights() -> nn.Module:
    model = FAMILIES["llama"].model()
    return model.apply(lambda module: [p.data.normal_() for p in module.parameters(recurse=False)] and None)


def wider() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "vocab_size": 98}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_weights, "base weights: .* differs from the base the delta was made on"),
        (wider, "base shapes: expected .* found .*; load the base it was made on"),
        (FAMILIES["qwen3"].model, "base architecture: expected LlamaForCausalLM .* found Qwen3ForCausalLM"),
        (FAMILIES["bert"].model, "base architecture: expected LlamaForCausalLM .* found BertForSequenceClassification"),
    ],
    ids=["weights", "shapes", "cousin", "stranger"],
)
def test_another_base_is_refused_and_left_alone(make: type[nn.Module], message: str, tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    dt.save(stir(dt.attach(model, LoRA(r=2))), tmp_path)
    other = make()
    state = fingerprint(other)
    with pytest.raises(BaseMismatchError, match=message) as caught:
        dt.load(other, tmp_path)
    assert "\n" not in str(caught.value)
    assert fingerprint(other) == state


def test_the_check_can_be_left_out(tmp_path: Path) -> None:
    model = FAMILIES["llama"].model()
    dt.save(stir(dt.attach(model, LoRA(r=2))), tmp_path)
    other = other_weights()
    dt.load(other, tmp_path, check_base=False)
    assert list(dt.deltas(other)) == ["default"]


@families("llama", "bert")
def test_deltas_that_are_on_do_not_change_the_identity(family: Family) -> None:
    model = family.model()
    identity = identify(model)
    attach(model, ROWS["lora"], family, seed=1)
    assert identify(model) == identity


@families("bert", "vit")
def test_a_fresh_head_is_not_the_bases_own(family: Family, tmp_path: Path) -> None:
    # Every run makes its own random head; the delta brings the trained one along.
    model = family.model()
    dt.save(attach(model, ROWS["lora"], family, seed=1), tmp_path)
    expected = family.forward(model)
    other = family.model()
    nn.init.normal_(other.get_parameter("classifier.weight"))
    dt.load(other, tmp_path)
    torch.testing.assert_close(family.forward(other), expected)


def test_a_base_on_the_meta_device_is_known_by_its_shapes() -> None:
    family = FAMILIES["llama"]
    check_base(family.outline(), identify(family.model()))
    check_base(family.model(), identify(family.outline()))
    with torch.device("meta"):
        other = wider()
    with pytest.raises(BaseMismatchError, match="base shapes"):
        check_base(other, identify(family.model()))
