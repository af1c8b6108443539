"""Norm tuning against Hugging Face PEFT, and against a base whose own norms train, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.errors import SiteError
from tests.methods.training import answers, assert_close, backward, doubled, losses, with_peft
from tests.models.families import DECODER, FAMILIES, Family
from tests.models.tools import families, stir


def own_norms(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of every norm."""
    norms = {name: module for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    return {f"{name}.{leaf}": p for name, norm in norms.items() for leaf, p in norm.named_parameters()}


def changes(delta: Any) -> dict[str, nn.Parameter]:
    return {f"{site}.{leaf}": p for site, part in delta.items() for leaf, p in part.delta.named_parameters()}


def gemma() -> Family:
    """Its norms multiply by 1 + w."""
    config = transformers.GemmaConfig(**DECODER, head_dim=8)
    text = FAMILIES["llama"]
    return Family("llama", lambda: transformers.GemmaForCausalLM(config), text.inputs, text.answer)


def built(family: Family) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(3)
    model = family.build().eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    return model, doubled(family)[1]


@pytest.mark.parametrize(
    "family", [*(FAMILIES[name] for name in ("bert", "t5", "llama", "qwen3", "gpt2", "unet")), gemma()]
)
def test_equals_a_base_whose_norms_train(family: Family) -> None:
    model, inputs = built(family)
    reference, _ = built(family)
    delta = stir(dt.attach(model, dt.Norm(train_also=())))
    trained = own_norms(reference)
    assert changes(delta).keys() == trained.keys()
    assert delta.size == sum(parameter.numel() for parameter in trained.values())

    reference.requires_grad_(False)
    for name, parameter in trained.items():
        parameter.requires_grad_(True)
        with torch.no_grad():
            parameter.add_(changes(delta)[name])
    tolerance = 1e-10 if any(isinstance(module, nn.LayerNorm) for module in model.modules()) else 2e-5
    assert_close(answers(family, model, inputs), answers(family, reference, inputs), tolerance)
    backward(family, model, inputs)
    backward(family, reference, inputs)
    for name, parameter in trained.items():  # RMS norms work in float32 whatever they are given
        assert_close(changes(delta)[name].grad, parameter.grad, tolerance)


@pytest.mark.parametrize("family", [FAMILIES["bert"], FAMILIES["llama"], gemma()])
def test_merges(family: Family) -> None:
    model = family.build().eval()
    delta = stir(dt.attach(model, dt.Norm(train_also=())))
    expected = family.forward(model)
    before = {name: parameter.detach().clone() for name, parameter in own_norms(model).items()}
    dt.merge(model)
    torch.testing.assert_close(family.forward(model), expected, rtol=1e-5, atol=1e-5)
    for name, change in changes(delta).items():
        torch.testing.assert_close(own_norms(model)[name], before[name] + change)


@families("bert", "t5", "llama", "gpt2")
def test_equals_peft(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.Norm(train_also=())))
    dt.save(delta, tmp_path)
    peer = with_peft(family, tmp_path)
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)

    backward(family, model, inputs)
    backward(family, peer, inputs)
    theirs = {n: p for n, p in peer.named_parameters() if ".ln_tuning_layers.default." in n}
    assert len(theirs) == len(changes(delta))
    for name, change in changes(delta).items():
        site, _, leaf = name.rpartition(".")
        grad = theirs[f"base_model.model.{site}.ln_tuning_layers.default.{leaf}"].grad
        torch.testing.assert_close(change.grad, grad, rtol=1e-4, atol=1e-4)


@families("bert", "t5", "llama")
def test_reads_files_of_peft(family: Family, tmp_path: Path) -> None:
    import peft

    names = {"bert": ["LayerNorm"], "t5": ["layer_norm", "final_layer_norm"], "llama": ["input_layernorm", "norm"]}
    peer = with_peft(family, peft.LNTuningConfig(target_modules=names[family.name]))
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            if "ln_tuning_layers" in name:
                parameter.add_(torch.randn_like(parameter) / 5)
    peer.save_pretrained(tmp_path)
    model = family.model()
    delta = dt.load(model, tmp_path)
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)
    dt.save(delta, tmp_path / "again")
    assert_close(answers(family, with_peft(family, tmp_path / "again"), inputs), answers(family, peer, inputs), 2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", [*(FAMILIES[name] for name in ("bert", "t5", "llama")), gemma()])
def test_starts_as_the_base_exactly(family: Family, dtype: torch.dtype) -> None:
    model = family.build().eval().to(dtype)
    base = family.forward(model)
    delta = dt.attach(model, dt.Norm(train_also=()))
    assert torch.equal(family.forward(model), base)
    assert {parameter.dtype for parameter in delta.parameters()} == {torch.float32}
    assert family.forward(model).dtype == dtype


def test_it_acts_beside_what_tunes_the_same_norms() -> None:
    """Two deltas at a norm both act and both learn."""
    family = FAMILIES["bert"]
    model = family.model()
    first = stir(dt.attach(model, dt.BitFit(targets=("norm",), train_also=()), name="bitfit"))
    second = stir(dt.attach(model, dt.Norm(train_also=()), name="norm"))
    both = family.forward(model)
    family.loss(model).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for d in (first, second) for p in d.parameters())
    first.disable()
    assert not torch.allclose(family.forward(model), both, atol=1e-3)


def test_norms_of_several_dimensions() -> None:
    model, x = nn.Sequential(nn.LayerNorm((3, 4))), torch.randn(2, 3, 4)
    base = model(x)
    delta = stir(dt.attach(model, dt.Norm()))
    (weight, bias) = delta.parameters()
    torch.testing.assert_close(model(x), base * (1 + weight) + bias)


def test_layers_choose_norms() -> None:
    assert dt.attach(FAMILIES["llama"].model(), dt.Norm(layers=1)).sites == (
        "model.layers.1.input_layernorm",
        "model.layers.1.post_attention_layernorm",
    )


class GatedNorm(nn.LayerNorm):
    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x if gate is None else x * gate)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4, elementwise_affine=False), GatedNorm(4)])
def test_refuses_norms_that_are_not_affine_in_weights_of_their_own(norm: nn.Module) -> None:
    with pytest.raises(SiteError, match="expected a norm with weights"):
        dt.attach(nn.Sequential(nn.Linear(4, 4), norm), dt.Norm())
    with pytest.raises(SiteError, match="expected a norm with weights"):
        dt.attach(FAMILIES["llama"].model(), dt.Norm(targets=("q_proj",)))


@families("bert", "llama")
def test_saved_and_loaded(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.Norm()))
    dt.save(delta, tmp_path)
    fresh = family.model()
    assert dt.load(fresh, tmp_path).method == delta.method
    torch.testing.assert_close(family.forward(fresh), family.forward(model), rtol=1e-5, atol=1e-5)


@families("bert", "llama")
def test_it_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.Norm())
    before, after = losses(family, model, lr=0.1)
    assert after < 0.7 * before


def test_a_fresh_one_is_nothing_in_half_precision_too() -> None:
    family = gemma()
    model = family.model().bfloat16()
    before = family.forward(model)
    dt.attach(model, dt.Norm())
    assert torch.equal(family.forward(model), before)


def test_norms_that_have_their_features_first() -> None:
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[4, 4], depths=[1, 1], num_labels=2)
    model, image = transformers.ConvNextForImageClassification(config).eval(), torch.randn(2, 3, 32, 32)
    base = model(image).logits
    delta = dt.attach(model, dt.Norm())
    torch.testing.assert_close(model(image).logits, base)
    site = next(site for site, _ in delta.items() if "downsampling_layer" in site)
    expected = transformers.ConvNextForImageClassification(config).eval()
    expected.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("deltatune.")})
    for name, parameter in dict(delta.items())[site].named_parameters():
        parameter.data.fill_(0.5)
        expected.get_submodule(site).get_parameter(name.rpartition(".")[2]).data.add_(0.5)
    torch.testing.assert_close(model(image).logits, expected(image).logits)
