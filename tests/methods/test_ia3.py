"""IA³ against Hugging Face PEFT, and merged in any order with what else acts at its sites."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.errors import ConfigError, SiteError
from tests.methods.training import answers, assert_close, backward, doubled, losses, with_peft
from tests.models.families import FAMILIES, Family
from tests.models.tools import families, stir


def method(family: Family, **settings: Any) -> dt.IA3:
    """GPT-2 has no key projection of its own."""
    targets = {"targets": ("c_attn", "mlp_down")} if family.name == "gpt2" else {}
    return dt.IA3(**{**targets, "train_also": (), **settings})


def theirs(peer: Any) -> dict[str, nn.Parameter]:
    """PEFT's vectors by site."""
    found = {n: p for n, p in peer.named_parameters() if ".ia3_l." in n}
    return {name.removeprefix("base_model.model.").removesuffix(".ia3_l.default"): p for name, p in found.items()}


def vectors(delta: Delta) -> dict[str, torch.Tensor]:
    return {site: part.delta for site, part in delta.items()}  # type: ignore[misc]


@families("bert", "t5", "t5-gated", "llama", "gpt2", "vit")
def test_equals_peft(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, method(family)))
    dt.save(delta, tmp_path)
    peer = with_peft(family, tmp_path)
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)

    backward(family, model, inputs)
    backward(family, peer, inputs)
    peers = theirs(peer)
    assert peers.keys() == vectors(delta).keys()
    for site, vector in vectors(delta).items():
        assert vector.grad is not None
        torch.testing.assert_close(vector.grad, peers[site].grad.flatten(), rtol=1e-4, atol=1e-4)


@families("bert", "llama", "gpt2")
def test_reads_files_of_peft(family: Family, tmp_path: Path) -> None:
    import peft

    last = {"bert": "output.dense", "llama": "down_proj", "gpt2": "mlp.c_proj"}[family.name]
    rest = {"bert": ["key", "value"], "llama": ["k_proj", "v_proj"], "gpt2": ["c_attn"]}[family.name]
    config = peft.IA3Config(
        target_modules=[*rest, last], feedforward_modules=[last], fan_in_fan_out=family.name == "gpt2"
    )
    peer = with_peft(family, config)
    with torch.no_grad():
        for vector in theirs(peer).values():
            vector.add_(torch.randn_like(vector) / 5)
    peer.save_pretrained(tmp_path)

    model = family.model()
    delta = dt.load(model, tmp_path, trainable=True)
    inputs = family.inputs()
    assert_close(answers(family, model, inputs), answers(family, peer, inputs), 2e-5)
    dt.save(delta, tmp_path / "again")
    assert_close(answers(family, with_peft(family, tmp_path / "again"), inputs), answers(family, peer, inputs), 2e-5)


def test_a_default_config_of_peft_scales_the_attention_output_too(tmp_path: Path) -> None:
    """PEFT's own default for BERT names every ``output.dense``, attention's as well."""
    import peft

    family = FAMILIES["bert-mlm"]
    peer = with_peft(family, peft.IA3Config())
    peer.save_pretrained(tmp_path)
    delta = dt.load(family.model(), tmp_path)
    inputs = {site for site, part in delta.items() if part.changes_input}
    assert inputs == {f"bert.encoder.layer.{i}.{block}output.dense" for i in (0, 1) for block in ("attention.", "")}


def test_feedforward_modules_are_exactly_ours(tmp_path: Path) -> None:
    """Where the last part of a name does not tell the sites apart, PEFT gets a pattern."""
    bert = FAMILIES["bert"].model()
    delta = dt.attach(bert, dt.IA3(targets=("attention_output", "mlp_down"), train_also=()))
    dt.save(delta, tmp_path)
    found = theirs(with_peft(FAMILIES["bert"], tmp_path))
    assert {site: tuple(vector.shape) for site, vector in found.items()} == {
        site: tuple(part.shapes()["ia3_l"]) for site, part in delta.items()
    }
    llama = FAMILIES["llama"].model()
    dt.save(dt.attach(llama, dt.IA3()), tmp_path / "llama")
    assert json.loads((tmp_path / "llama/adapter_config.json").read_text())["feedforward_modules"] == ["down_proj"]


@families("bert", "t5", "llama", "gpt2")
def test_starts_as_the_base_and_has_the_papers_size(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    delta = dt.attach(model, method(family))
    torch.testing.assert_close(family.forward(model), base, rtol=0, atol=0)
    d, kv, ff = 32, {"llama": 16}.get(family.name, 32), 48 if family.name != "gpt2" else 128
    per_layer = {"gpt2": 3 * d + ff}.get(family.name, 2 * kv + ff)
    cross = 2 * 2 * kv if family.name == "t5" else 0
    assert delta.size == (4 if family.name == "t5" else 2) * per_layer + cross


@families("t5", "gpt2")
def test_the_equation(family: Family) -> None:
    """Scaled weights, written into a float64 base, give the same answer: that is also its merge."""
    model, inputs = doubled(family)
    reference, _ = doubled(family)
    delta = stir(dt.attach(model, method(family)))
    for site, part in delta.items():
        module, scale = reference.get_submodule(site), 1 + part.delta.detach()
        columns = part.changes_input != (type(module).__name__ == "Conv1D")  # Conv1D keeps its weight transposed
        with torch.no_grad():
            module.weight.mul_(scale if columns else scale[:, None])
            if not part.changes_input and module.bias is not None:
                module.bias.mul_(scale)
    expected = answers(family, reference, inputs)
    assert_close(answers(family, model, inputs), expected)
    assert dt.merge(model).largest_difference < 1e-12
    assert_close(answers(family, model, inputs), expected)
    for name, parameter in reference.named_parameters():
        assert_close(model.get_parameter(name), parameter)


@pytest.mark.parametrize("order", ["il", "li", "iil", "ili"])
def test_merges_with_lora_in_any_order(order: str) -> None:
    """Attached first or last, what scales the input of a site scales what LoRA reads there too."""
    family = FAMILIES["llama"]
    model = family.model()
    for number, kind in enumerate(order):
        lora = dt.LoRA(r=2, targets=("key", "mlp_down"))
        stir(dt.attach(model, dt.IA3() if kind == "i" else lora, name=f"{kind}{number}"), number)
    expected = family.forward(model)
    dt.merge(model)
    torch.testing.assert_close(family.forward(model), expected, rtol=1e-4, atol=1e-4)


def test_half_a_merge_has_half_the_scale() -> None:
    model = FAMILIES["llama"].model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    delta = stir(dt.attach(model, dt.IA3()))
    dt.merge(model, {"default": 0.5})
    for site, part in delta.items():
        half = 1 + part.delta.detach() / 2
        expected = before[f"{site}.weight"] * (half if part.changes_input else half[:, None])
        torch.testing.assert_close(model.get_parameter(f"{site}.weight").detach(), expected)


def test_a_scale_is_not_rounded_to_half_precision() -> None:
    """In bfloat16 there is no number between 1 and 1 + 1/128."""
    layer = nn.Sequential(nn.Linear(4, 4, bias=False)).to(torch.bfloat16)
    (part,) = dt.attach(layer, dt.IA3(targets=("0",), feedforward=())).parts
    with torch.no_grad():
        part.delta.fill_(0.005)
    out = (1 + torch.rand(10_000, 4)).to(torch.bfloat16)
    scaled = part(out, out)
    assert scaled.dtype == torch.bfloat16
    assert (scaled.double() / out.double()).mean().item() == pytest.approx(1.005, abs=5e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": ()}, "ia3.targets"),
        ({"targets": ("norm",)}, "expected Linear"),
        ({"feedforward": ("nope",)}, "nope"),
    ],
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, SiteError), match=message) as error:
        dt.attach(FAMILIES["llama"].model(), dt.IA3(**settings))
    assert "\n" not in str(error.value)


@families("bert", "llama")
def test_it_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.IA3(train_also=()))
    before, after = losses(family, model, lr=0.1)
    assert after < 0.8 * before
