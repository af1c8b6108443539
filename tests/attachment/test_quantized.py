"""A base whose matrices are packed into 4 or 8 bits: trained, refused to merge, and merged when asked to."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.layers import dense, is_quantized
from deltatune.errors import BaseMismatchError, MergeError, SiteError
from deltatune.methods.lora import LoRA, LoRAPart
from tests.models.families import DECODER, FAMILIES, Family, bert_config
from tests.models.tools import assert_bit_identical, assert_close, fingerprint, stir, train_step, values

bnb = pytest.importorskip("bitsandbytes")

# Rows at least as long as a block of 4-bit numbers: on the CPU, bitsandbytes rounds shorter ones beyond recognition.
WIDE = {"hidden_size": 64, "intermediate_size": 128}
FAMILY = dataclasses.replace(
    FAMILIES["llama"], build=lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, **WIDE}))
)
ENCODER = dataclasses.replace(
    FAMILIES["bert"], build=lambda: transformers.BertForSequenceClassification(bert_config(**WIDE))
)
each = pytest.mark.parametrize("family", [FAMILY, ENCODER], ids=["llama", "bert"])
BITS = ("4bit", "8bit")
every_width = pytest.mark.parametrize("bits", BITS)


def quantized(bits: str, family: Family = FAMILY, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model with its linear layers packed, the head of the vocabulary excepted."""
    model = family.model().to(dtype)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name not in ("lm_head", "classifier"):
            model.set_submodule(name, packed(module, bits, dtype))
    return model.to("cpu")  # packs


def packed(module: nn.Linear, bits: str, dtype: torch.dtype) -> nn.Module:
    sizes, bias = (module.in_features, module.out_features), module.bias is not None
    weight = module.weight.data.clone()
    if bits == "4bit":
        layer: Any = bnb.nn.Linear4bit(*sizes, bias=bias, compute_dtype=dtype, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    else:
        layer = bnb.nn.Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False, threshold=0.0)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    layer.bias = module.bias
    return layer  # type: ignore[no-any-return]


def bytes_of(model: nn.Module) -> dict[str, Tensor]:
    """The packed weights and everything else, to the bit."""
    return {name: tensor.clone() for name, tensor in values(model).items()}


@every_width
@each
def test_a_packed_base_is_what_it_says_it_is(bits: str, family: Family) -> None:
    model, original = quantized(bits, family), family.model()
    layers = [name for name, module in model.named_modules() if is_quantized(module)]
    assert layers
    for name in layers:
        weight = original.get_parameter(f"{name}.weight")
        assert dense(model.get_submodule(name)).shape == weight.shape
        assert (dense(model.get_submodule(name)) - weight).norm() < (0.15 if bits == "4bit" else 0.02) * weight.norm()
    assert dt.summary(model).base_parameters == dt.summary(original).base_parameters


@every_width
@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_delta_trains_on_a_packed_base_and_leaves_it_alone(bits: str, family: Family, dtype: torch.dtype) -> None:
    model = quantized(bits, family, dtype)
    base = family.forward(model)  # 8 bits move their scales to another place at the first call
    before, state = bytes_of(model), fingerprint(model)
    delta = dt.attach(model, LoRA(r=2, targets=("all_linear",)))
    assert {parameter.dtype for parameter in delta.parameters()} == {torch.float32}
    assert torch.equal(family.forward(model), base)
    losses = [train_step(model, family, rate=0.02) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(part.lora_B.any() for _, part in delta.items() if isinstance(part, LoRAPart))
    dt.detach(model)
    assert_bit_identical(bytes_of(model), before)
    assert fingerprint(model) == state
    assert torch.equal(family.forward(model), base)


@every_width
def test_pissa_starts_from_the_unpacked_weight_and_as_the_base(bits: str) -> None:
    model = quantized(bits)
    base = FAMILY.forward(model)
    weight = dense(model.get_submodule("model.layers.0.self_attn.q_proj")).double()
    delta = dt.attach(model, LoRA(r=2, init="pissa"))
    assert_close(FAMILY.forward(model), base, share=1e-4)
    part = next(part for _, part in delta.items())
    assert isinstance(part, LoRAPart)
    U, S, Vh = torch.linalg.svd(weight)
    best = (U[:, :2] * S[:2] @ Vh[:2]).float()
    assert_close(part.scale * part.lora_B.detach() @ part.lora_A.detach(), best, share=1e-4)


@every_width
def test_merging_into_a_packed_weight_is_refused_with_the_reason(bits: str) -> None:
    model = quantized(bits)
    stir(dt.attach(model, LoRA(r=2)))
    changed, before, state = FAMILY.forward(model), bytes_of(model), fingerprint(model)
    kind = {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]
    with pytest.raises(MergeError, match=rf"q_proj: its weight is packed \({kind}\).*or pass dequantize=True"):
        dt.merge(model)
    assert_bit_identical(bytes_of(model), before)
    assert fingerprint(model) == state
    assert torch.equal(FAMILY.forward(model), changed)


@every_width
@each
def test_merging_into_dense_modules_gives_the_same_answers_and_unmerging_the_packed_ones_back(
    bits: str, family: Family
) -> None:
    model = quantized(bits, family)
    stir(dt.attach(model, LoRA(r=2)))
    changed, before, state = family.forward(model), bytes_of(model), fingerprint(model)
    done = dt.merge(model, dequantize=True)
    sites = [site for site in dt.deltas(model)["default"].sites if site != "classifier"]
    assert done.dequantized == sites
    assert all(type(model.get_submodule(site)) is nn.Linear for site in sites)
    # 8 bits round the activations too, which the dense modules do not.
    assert_close(family.forward(model), changed, share=1e-4 if bits == "4bit" else 0.05)

    dt.unmerge(model)
    assert fingerprint(model) == state
    assert_bit_identical(bytes_of(model), before)
    assert torch.equal(family.forward(model), changed)


@every_width
def test_other_deltas_go_on_acting_on_the_dense_modules(bits: str) -> None:
    model = quantized(bits)
    stir(dt.attach(model, LoRA(r=2), name="a"), seed=1)
    stir(dt.attach(model, LoRA(r=2), name="b"), seed=2)
    both = FAMILY.forward(model)
    dt.merge(model, "a", dequantize=True)
    assert_close(FAMILY.forward(model), both, share=1e-4 if bits == "4bit" else 0.05)
    dt.unmerge(model)
    assert torch.equal(FAMILY.forward(model), both)
    dt.detach(model)
    assert not any(module._forward_hooks for module in model.modules())


@every_width
def test_a_delta_of_a_packed_base_is_put_on_the_dense_one_and_the_other_way_round(bits: str, tmp_path: Path) -> None:
    for made_on, put_on in ((quantized(bits), FAMILY.model()), (FAMILY.model(), quantized(bits))):
        dt.save(stir(dt.attach(made_on, LoRA(r=2))), tmp_path)
        expected = FAMILY.forward(made_on)
        dt.load(put_on, tmp_path)
        assert (FAMILY.forward(put_on) - expected).abs().max() < 0.5 * expected.abs().max()
    stranger = FAMILY.model()
    stranger.get_parameter("model.norm.weight").data.mul_(1.1)
    with pytest.raises(BaseMismatchError, match=r"model\.norm\.weight differs"):
        dt.load(stranger, tmp_path)


@every_width
def test_a_copy_of_a_packed_model_has_its_own_deltas(bits: str) -> None:
    model = quantized(bits)
    stir(dt.attach(model, LoRA(r=2)))
    changed = FAMILY.forward(model)
    copied = copy.deepcopy(model)
    dt.detach(copied)
    assert torch.equal(FAMILY.forward(model), changed)


@pytest.mark.parametrize("load_in", ["load_in_4bit", "load_in_8bit"])
def test_a_model_that_transformers_packs_is_known_as_the_dense_one(load_in: str, tmp_path: Path) -> None:
    dense_model: Any = FAMILY.model()
    dense_model.save_pretrained(tmp_path / "base")
    how = transformers.BitsAndBytesConfig(**{load_in: True})
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=how, device_map="cpu", dtype=torch.float32
    )
    assert sum(is_quantized(module) for module in model.modules()) == 14
    delta = stir(dt.attach(model, LoRA(r=2)))
    train_step(model, FAMILY)
    dt.save(delta, tmp_path / "delta")
    dt.load(FAMILY.model(), tmp_path / "delta")


def test_a_4_bit_weight_that_was_never_packed_says_so() -> None:
    model = nn.ModuleDict({"fc": packed(nn.Linear(8, 8), "4bit", torch.float32)})
    dt.attach(model, LoRA(r=2, targets=("fc",)))
    with pytest.raises(MergeError, match="never moved to a device; call "):
        dt.merge(model, dequantize=True)


@every_width
def test_a_packed_module_can_not_be_trained_whole(bits: str) -> None:
    model = quantized(bits)
    state = fingerprint(model)
    with pytest.raises(SiteError, match=r"'model\.layers\.0\.mlp' is packed, so it can not be trained whole"):
        dt.attach(model, LoRA(train_also=("mlp",)))
    assert fingerprint(model) == state


def test_bitsandbytes_is_imported_only_for_its_own_layers() -> None:
    code = (
        "import sys, torch, deltatune as dt; model = torch.nn.ModuleDict({'fc': torch.nn.Linear(4, 4)}); "
        "dt.attach(model, dt.LoRA(targets=('fc',))); dt.merge(model); dt.summary(model); "
        "assert not [name for name in sys.modules if name.startswith('bitsandbytes')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
