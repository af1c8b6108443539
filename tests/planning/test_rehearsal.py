"""A rehearsal on the meta device beside the step itself: what torch's own allocator counted, and what autograd kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import deltatune as dt
from deltatune.errors import DeltaError
from deltatune.packing.path import why_not
from deltatune.planning import rehearsal
from deltatune.planning.rehearsal import Batch, rehearse
from deltatune.train.kept import layers_of, measure
from deltatune.train.memory_budget import checkpointing
from tests.models.families import FAMILIES, Family, bert_config, t5_config
from tests.models.methods import Row
from tests.models.tools import every_method, families

WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
BATCH = Batch(tokens=512, length=128)

MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**WIDE, vocab_size=500)),
    "bert": lambda: transformers.BertForSequenceClassification(bert_config(**WIDE, max_position_embeddings=160)),
    "t5": lambda: transformers.T5ForConditionalGeneration(t5_config(d_model=64, d_kv=16, d_ff=160, vocab_size=500)),
}
"""Small models, but of tensors so large that they are what takes memory."""


def on(device: str, name: str, method: dt.Method | None) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        model = MODELS[name]()
    if method is None:
        return model.requires_grad_(True)
    dt.attach(model, method)
    return model


def real_inputs(model: nn.Module) -> dict[str, Any]:
    """The batch of a rehearsal, with tokens in it."""
    inputs = rehearsal._inputs(model, BATCH, is_packed=why_not(model, tried=False) is None)
    if "packed" in inputs:
        texts = [rehearsal._text(number, length, BATCH) for number, length in enumerate(BATCH.lengths)]
        return {"packed": dt.packing.packed.pack(texts)}  # type: ignore[attr-defined]
    return {name: torch.ones_like(value, device="cpu") for name, value in inputs.items()}


def allocated(step: Callable[[], Any], file: Path) -> int:
    """The most bytes that torch's allocator had given out at a time beyond those at the beginning."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    profile.export_chrome_trace(str(file))
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    totals = [event["args"]["Total Allocated"] for event in events]
    return max(totals) - (totals[0] - events[0]["args"]["Bytes"])


def one_step(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    with rehearsal._savings(model).on(model):
        model.train()
        model(**inputs).loss.backward()


def fits(row: Row, name: str) -> bool:
    return row.fits(FAMILIES[name])


@every_method
@pytest.mark.parametrize("name", list(MODELS))
def test_the_peak_is_what_the_allocator_counted(name: str, row: Row, tmp_path: Path) -> None:
    if not fits(row, name):
        pytest.skip("there is nothing for the method to act on")
    method = row.make(FAMILIES[name])
    found = rehearse(on("meta", name, method), BATCH)
    model = on("cpu", name, method)
    inputs = real_inputs(model)
    measured = allocated(lambda: one_step(model, inputs), tmp_path / "trace.json")
    predicted = found.gradients + found.activations + found.temporary
    assert predicted == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("checkpoints", [0, 1, None])
def test_the_same_of_full_fine_tuning_and_of_checkpoints(name: str, checkpoints: int | None, tmp_path: Path) -> None:
    found = rehearse(on("meta", name, None), BATCH, checkpoints=checkpoints)
    model = on("cpu", name, None)
    inputs = real_inputs(model)
    with checkpointing(model, list(layers_of(model))[:checkpoints]):
        measured = allocated(lambda: one_step(model, inputs), tmp_path / "trace.json")
    assert found.gradients + found.activations + found.temporary == pytest.approx(measured, rel=0.03)


@families("llama", "qwen2", "qwen3", "gpt2", "bert", "t5", "t5-gated")
@every_method
def test_it_runs_for_every_method_and_leaves_the_model_as_it_was(row: Row, family: Family) -> None:
    model = family.outline().eval()
    dt.attach(model, row.make(family))
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    found = rehearse(model, Batch(tokens=48, length=16))
    assert found.activations > 0
    assert found.operations > 0
    # Child-Tuning by data has chosen its entries, in the same parameters.
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_kept_is_what_a_pass_of_the_model_keeps() -> None:
    method = dt.LoRA(r=4)
    found = rehearse(on("meta", "llama", method), BATCH, savings=False)
    model = on("cpu", "llama", method).train()
    ids = torch.ones(BATCH.rows, BATCH.length, dtype=torch.long)
    kept = measure(model, lambda: model(input_ids=ids, labels=ids).loss)
    assert found.kept == pytest.approx(kept.total, rel=0.02)


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_operations_are_those_of_the_matrices(trained: str) -> None:
    """A frozen matrix takes a product forward and one backward, a trained one a third; the first needs no gradient."""
    method = dt.LoRA(r=4, targets=("down_proj",), layers="0") if trained == "lora" else None
    model = on("meta", "llama", method)
    found = rehearse(model, BATCH, savings=False)
    head = model.lm_head.weight
    rows = BATCH.tokens
    size = {name: p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name}
    lower = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    if method is None:
        expected = sum(6 * rows * count for count in size.values())
    else:
        below = sum(
            count for name, count in size.items() if "layers.0." in name and any(part in name for part in lower)
        )
        own = sum(count for name, count in size.items() if "lora" in name)
        rest = sum(size.values()) - below - own
        down = 160 * 64
        expected = rows * (2 * below + 6 * own + 4 * rest - 2 * down)  # down itself has no input to take a gradient to
    assert head.shape == (500, 64)
    attention = 2 * 2 * 4 * 128 * 128 * 4 * 16 // 2  # products, a sum beside each, texts, rows, keys, heads, numbers
    layers = 3 * 3.5 if method is None else 1 + 2 * 3.5
    assert found.operations == pytest.approx(expected + attention * layers, rel=0.02)


def test_gradients_of_an_earlier_batch_are_there_all_the_time() -> None:
    model = on("meta", "llama", None)
    once, again = (rehearse(model, BATCH, accumulates=accumulates) for accumulates in (False, True))
    every = sum(parameter.nbytes for parameter in model.parameters())
    assert again.gradients >= every
    assert again.gradients + again.activations > once.gradients + once.activations


def test_what_is_shared_runs_once() -> None:
    model = on("meta", "llama", dt.LoRA(r=4))
    apart, shared = (rehearse(model, Batch(512, 128, shared=each)) for each in (0, 96))
    assert shared.kept < 0.6 * apart.kept
    assert shared.operations < 0.65 * apart.operations  # the head makes logits of as many targets


def test_longer_batches_keep_more_and_evenly() -> None:
    model = on("meta", "llama", dt.LoRA(r=4))
    sizes = [rehearse(model, Batch(count * 64, 64)).kept for count in (2, 4, 8)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.01)


def test_the_last_text_has_what_is_left() -> None:
    assert Batch(tokens=1000, length=300).lengths == [300, 300, 300, 100]
    assert Batch(tokens=300, length=300).lengths == [300]


def test_a_model_that_looks_at_data_is_refused_in_a_line() -> None:
    model = on("meta", "llama", dt.LoRA(r=4)).eval()
    model.model.layers[0].register_forward_hook(lambda *_: torch.ones(1, device="meta").tolist())
    with pytest.raises(DeltaError, match=r"plan: LlamaForCausalLM can not be rehearsed without data \(.*\); measure"):
        rehearse(model, BATCH)
    assert not model.training
