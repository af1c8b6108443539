"""Hugging Face PEFT and this library are one LoRA: the same answers and gradients, from the files of either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import deltatune as dt
from deltatune.io.files import TENSORS
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.tools import assert_close, stir
from tests.peers.lora import gradients_of_ours, gradients_of_theirs, loaded, opened, theirs

QV = {"target_modules": ["q_proj", "v_proj"]}
BERT = {"target_modules": ["query", "value"]}
T5 = {"target_modules": ["q", "v"]}

# Each of PEFT's options on a family that has it. Gradients are compared too, so biases and heads are seen.
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", QV),
    "rslora": ("llama", {**QV, "use_rslora": True}),
    "grouped heads": ("qwen3", QV),
    "two stacks": ("t5", {**T5, "task_type": "SEQ_2_SEQ_LM"}),
    "gated": ("t5-gated", {"target_modules": ["wi_0", "wi_1", "wo"]}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    "images": ("vit", {**QV, "modules_to_save": ["classifier"]}),
    "two towers": ("clip", {"target_modules": ["q_proj", "k_proj", "visual_projection"]}),
    "unet": ("unet", {"target_modules": ["to_q", "to_v", "to_out.0", "ff.net.0.proj"]}),
    # PEFT takes the first key that fits, and writes them sorted, so only what is sorted comes back to itself.
    "rank pattern": ("llama", {**QV, "rank_pattern": {r".*layers\.1\.self_attn\..*": 6, "q_proj": 2}}),
    "pattern from the root": ("llama", {**QV, "rank_pattern": {"^model.layers.0.self_attn.v_proj": 7}}),
    "pattern for nothing": ("llama", {**QV, "rank_pattern": {"nowhere": 7}}),
    "alpha pattern": ("llama", {**QV, "alpha_pattern": {"v_proj": 3, "layers.0.self_attn.q_proj": 20}}),
    "both patterns, rslora": (
        "llama",
        {**QV, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True},
    ),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "embedding with padding": ("bert", {"target_modules": ["word_embeddings"]}),
    "tied embedding": ("qwen2", {"target_modules": ["embed_tokens", "v_proj"]}),
    "embedding of gpt2": ("gpt2", {"target_modules": ["wte"]}),
    "all linear": ("llama", {"target_modules": "all-linear"}),
    "all linear with a head": ("bert", {"target_modules": "all-linear", "task_type": "SEQ_CLS"}),
    "classifier by task": ("bert", {**BERT, "task_type": "SEQ_CLS"}),
    "head of the vocabulary": ("llama", {**QV, "modules_to_save": ["lm_head"]}),
    "whole embedding": ("llama", {**QV, "modules_to_save": ["embed_tokens"]}),
    "biases of the sites": ("bert", {**BERT, "bias": "lora_only"}),
    "all biases": ("bert", {**BERT, "bias": "all"}),
    "all biases and a head": ("bert", {**BERT, "bias": "all", "task_type": "SEQ_CLS"}),
    "biases of the sites and a head": ("bert", {**BERT, "bias": "lora_only", "task_type": "SEQ_CLS"}),
    "all biases of convolutions": ("unet", {"target_modules": ["to_q"], "bias": "all"}),
    "all biases of gpt2": ("gpt2", {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}),
    "all biases, one of them tied": ("bert-mlm", {**BERT, "bias": "all"}),
    "regular expression": ("llama", {"target_modules": r".*layers\.1\..*(q|k)_proj"}),
    "one layer": ("llama", {**QV, "layers_to_transform": 1}),
    "some layers of both stacks": ("t5", {**T5, "layers_to_transform": [0]}),
    "layers of a named stack": ("llama", {**QV, "layers_to_transform": [0], "layers_pattern": "layers"}),
    "layers inside layers": (
        "t5",
        {"target_modules": ["q", "wo"], "layers_to_transform": [1], "layers_pattern": "layer"},
    ),
    "excluded": ("llama", {"target_modules": "all-linear", "exclude_modules": ["down_proj", "layers.0.mlp.up_proj"]}),
    "excluded by expression": ("llama", {"target_modules": "all-linear", "exclude_modules": r".*layers\.0\..*"}),
    "role names of another family": ("bert", {"target_modules": ["key"]}),
    "gaussian": ("llama", {**QV, "init_lora_weights": "gaussian"}),
    "orthogonal": ("llama", {**QV, "init_lora_weights": "orthogonal"}),
}

quiet = pytest.mark.filterwarnings(
    # What PEFT says of an adapted embedding: its head is tied to it, and its weight is saved for good measure.
    "ignore:Model has `tie_word_embeddings=True` and a tied layer is part of the adapter:UserWarning",
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:The following rank_pattern keys did not match any targeted module:RuntimeWarning",
)


@quiet
@pytest.mark.parametrize(("name", "settings"), THEIRS.values(), ids=list(THEIRS))
def test_their_file_is_read_with_their_answers_and_gradients(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    family = FAMILIES[name]
    model = theirs(family, **settings)
    expected, gradients = family.forward(model), gradients_of_theirs(model, family)
    assert (family.forward(family.model()) - expected).abs().max() > 1e-3
    model.save_pretrained(tmp_path)

    ours, delta = loaded(family, tmp_path, trainable=True)
    assert_close(family.forward(ours), expected)
    found = gradients_of_ours(ours, family, delta)
    assert found.keys() <= gradients.keys()
    assert len(found) == len({gradient.data_ptr() for gradient in gradients.values()})  # tied ones have several names
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[key], atol=1e-5 * largest, rtol=1e-4)

    dt.save(delta, tmp_path / "again")
    assert_close(family.forward(opened(family, tmp_path / "again")), expected)


OURS: dict[str, tuple[str, LoRA]] = {
    "plain": ("llama", LoRA(r=4)),
    "rslora": ("llama", LoRA(r=3, rslora=True)),
    "patterns": ("llama", LoRA(rank_pattern={"query": 3}, alpha_pattern={r".*layers\.0\..*": 5})),
    "patterns, rslora": ("llama", LoRA(rank_pattern={"query": 3}, alpha_pattern={"value": 5}, rslora=True)),
    "last layer": ("llama", LoRA(targets=("query", "mlp_down"), layers="last:1")),
    "without some": ("llama", LoRA(targets=("all_linear",), exclude=("mlp_up", "model.layers.0.self_attn.k_proj"))),
    "all linear": ("llama", LoRA(targets=("all_linear",))),
    "one stack": ("t5", LoRA(exclude=("decoder",))),
    "conv1d": ("gpt2", LoRA(targets=("query", "key", "value", "mlp_up"))),
    "head": ("bert", LoRA()),
    "no head": ("bert", LoRA(train_also=())),
    "images": ("vit", LoRA()),
    "unet": ("unet", LoRA(targets=("query", "attention_output", "mlp_up"))),
    "clip": ("clip", LoRA(targets=("all_linear",))),
    "embedding": ("llama", LoRA(targets=("embedding", "query"))),
    "tied embedding": ("qwen2", LoRA(targets=("embedding",))),
    "two embeddings": ("t5-gated", LoRA(targets=("embedding", "value"))),
    "whole modules": ("llama", LoRA(train_also=("lm_head", "model.norm"))),
    "biases of the sites": ("bert", LoRA(bias="lora_only")),
    "all biases": ("bert", LoRA(bias="all")),
    "all biases without a head": ("bert", LoRA(bias="all", train_also=())),
    "all biases of convolutions": ("unet", LoRA(bias="all")),
    "one bias tied": ("bert-mlm", LoRA(bias="all")),
    "pissa": ("llama", LoRA(r=3, init="pissa")),
    "pissa, rslora, patterns": (
        "llama",
        LoRA(r=3, init="pissa", rslora=True, rank_pattern={"value": 2}, alpha_pattern={"query": 5}),
    ),
    "pissa of conv1d": ("gpt2", LoRA(r=3, targets=("c_attn",), init="pissa")),
    "pissa of an embedding": ("llama", LoRA(r=3, targets=("embedding",), init="pissa")),
    "orthogonal": ("llama", LoRA(r=4, init="orthogonal")),
}


@quiet
@pytest.mark.parametrize(("name", "method"), OURS.values(), ids=list(OURS))
def test_our_file_is_read_by_them_with_our_answers(name: str, method: LoRA, tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = family.model()
    stir(dt.attach(model, method))
    expected = family.forward(model)
    dt.save(dt.deltas(model)["default"], tmp_path)
    assert_close(family.forward(opened(family, tmp_path)), expected)

    # Without our header it is a file as PEFT writes it, and is read as one.
    save_file(load_file(tmp_path / TENSORS), tmp_path / TENSORS)
    again, _ = loaded(family, tmp_path)
    assert_close(family.forward(again), expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", QV),
        ("bert", {**BERT, "task_type": "SEQ_CLS"}),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
)
def test_both_learn_alike(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    family = FAMILIES[name]
    model = theirs(family, **settings)
    model.save_pretrained(tmp_path)
    ours, _ = loaded(family, tmp_path, trainable=True)
    losses = [steps(each, family) for each in (model, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def steps(model: torch.nn.Module, family: Family) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = family.loss(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
