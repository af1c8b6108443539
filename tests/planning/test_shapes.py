"""Bases by their shapes, beside the bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import deltatune as dt
from deltatune.attachment.layers import is_quantized
from deltatune.attachment.summary import base_size
from deltatune.errors import ConfigError
from deltatune.io.bases import Quant, load_base
from deltatune.io.quantised import weight_bytes
from deltatune.planning.presets import PRESETS
from deltatune.planning.shapes import shape_of
from tests.cli import tiny
from tests.cli.tiny import save_llama
from tests.models.families import bert_config, gpt2_config, t5_config

SIZES = {
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "qwen2-7b": 7_615_616_512,
    "qwen2.5-0.5b": 494_032_768,
    "smollm2": 134_515_008,
    "t5-base": 222_903_552,
    "bert-base": 109_483_778,  # with a head of two classes
    "minilm": 22_713_986,
}
"""Parameters, as the models' cards and files have them."""


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_have_the_parameters_of_the_models(name: str) -> None:
    shape = shape_of(name)
    assert shape.parameters == SIZES[name]
    assert all(parameter.is_meta for parameter in shape.model.parameters())
    assert not shape.model.training


@pytest.mark.parametrize(("name", "task"), [("smollm2", "auto"), ("minilm", "sequence-classification")])
def test_the_presets_that_pip_brings_are_what_is_loaded(name: str, task: str) -> None:
    loaded = load_base(name, task=task).model
    shape = shape_of(name, task=task)
    found = {key: tuple(value.shape) for key, value in shape.model.state_dict().items()}
    assert found == {key: tuple(value.shape) for key, value in loaded.state_dict().items()}
    assert shape.dtype == loaded.dtype


def test_a_folder_and_a_config_are_read_as_the_base_is_loaded(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()  # none of them is read
    config = transformers.AutoConfig.from_pretrained(folder)
    assert shape_of(str(folder)).parameters == shape_of(config).parameters
    assert shape_of(str(folder), dtype="bfloat16").dtype == torch.bfloat16


def test_an_encoder_classifies_into_as_many_classes_as_wanted() -> None:
    shape = shape_of("minilm", num_labels=7)
    assert shape.task == "sequence-classification"
    assert shape.model.classifier.out_features == 7


@pytest.mark.parametrize("quant", ["nf4", "nf4-double", "int8"])
def test_packed_bases_take_what_loaded_ones_take(quant: Quant, tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama", hidden_size=64, intermediate_size=128)
    loaded = load_base(folder, quant=quant).model
    shape = shape_of(str(folder), quant=quant)
    assert base_size(shape.model) == base_size(loaded)
    assert weight_bytes(shape.model) == pytest.approx(weight_bytes(loaded), rel=0.01)
    kinds = {name: type(module) for name, module in loaded.named_modules()}
    assert {name: type(module) for name, module in shape.model.named_modules()} == kinds


def test_tied_weights_take_memory_once() -> None:
    tied, apart = (
        shape_of(transformers.LlamaConfig(**_small(), architectures=["LlamaForCausalLM"], tie_word_embeddings=tie))
        for tie in (True, False)
    )
    assert weight_bytes(apart.model) - weight_bytes(tied.model) == 4 * 100 * 32
    delta = dt.attach(tied.model, dt.LoRA(r=2))
    steps = delta.steps.nbytes  # which it counts in a buffer
    assert weight_bytes(tied.model) == weight_bytes(apart.model) - 4 * 100 * 32 + 4 * delta.size + steps


def _small() -> dict[str, Any]:
    return {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("base", "settings", "message"),
    [
        ("no/such/folder/x", {}, "base 'no/such/folder/x': expected a model folder, a GGUF file, a hub id"),
        ("smollm2", {"task": "poetry"}, "task: expected auto, seq2seq-lm, .*, found 'poetry'; choose one of them"),
    ],
)
def test_what_is_no_base_is_refused_in_a_line(base: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape_of(base, **settings)


@pytest.mark.parametrize("quant", ["nf4", "int8"])
@pytest.mark.parametrize(
    ("make", "config", "task"),
    [
        (transformers.GPT2LMHeadModel, gpt2_config, "causal-lm"),
        (transformers.T5ForConditionalGeneration, t5_config, "seq2seq-lm"),
        (transformers.BertForSequenceClassification, bert_config, "sequence-classification"),
    ],
)
def test_packed_bases_of_all_families_take_what_loaded_ones_take(
    make: Any, config: Any, task: str, quant: Quant, tmp_path: Path
) -> None:
    settings = config()
    if settings.model_type == "bert":  # of an encoder without a head, which is then made afresh
        transformers.BertModel(settings).save_pretrained(tmp_path)
    else:
        make(settings).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    loaded = load_base(tmp_path, quant=quant, task=task).model
    shape = shape_of(str(tmp_path), quant=quant, task=task)
    assert weight_bytes(shape.model) == pytest.approx(weight_bytes(loaded), rel=0.01)
    packed = {name for name, module in loaded.named_modules() if is_quantized(module)}
    assert packed == {name for name, module in shape.model.named_modules() if is_quantized(module)}
    assert packed
    if task == "sequence-classification":
        dt.attach(loaded, dt.LoRA(r=2))
        loaded(torch.tensor([[5, 6]]), labels=torch.tensor([1])).loss.backward()


def test_what_an_architecture_wants_in_float32_is_so_in_half_precision() -> None:
    shape = shape_of("t5-base", dtype="float16")
    kinds = {parameter.dtype for name, parameter in shape.model.named_parameters() if name.endswith("wo.weight")}
    assert kinds == {torch.float32}
    assert shape.dtype == torch.float16
