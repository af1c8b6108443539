"""A base that `load_base` quantises is trained on for real, on the CPU: its delta learns, and it stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import deltatune as dt
from tests.io.test_bases import save
from tests.models.tools import assert_bit_identical

pytest.importorskip("bitsandbytes")

STEPS = 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=2, initializer_range=0.1)
    return save(tmp_path / "base", transformers.LlamaForCausalLM(config))


def learn(model: Any, ids: Tensor) -> tuple[dt.Delta, Tensor]:
    """A LoRA that has learned two texts by heart, with gradient checkpointing, and the losses on the way."""
    torch.manual_seed(1)
    delta = dt.attach(model, dt.LoRA(r=8, targets=("all_linear",)))
    model.train().activation_checkpointing_enable()
    optimizer = torch.optim.AdamW(dt.parameter_groups(model, lr=5e-3))
    losses = []
    for _ in range(STEPS):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return delta, torch.tensor(losses)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quant", ["nf4", "nf4-double", "int8"])
def test_a_delta_learns_as_on_the_dense_base(folder: Path, tmp_path: Path, quant: Any, dtype: Any) -> None:
    ids = torch.randint(0, 64, (2, 24))
    model = dt.load_base(folder, quant=quant, dtype=dtype).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    delta, losses = learn(model, ids)
    _, expected = learn(dt.load_base(folder, dtype=dtype).model, ids)
    assert losses[-1] < 0.1 * losses[0]
    assert (losses - expected).abs().max() < 0.1
    assert {p.dtype for p in delta.parameters()} == {torch.float32}
    logits = model(ids).logits
    dt.save(delta, tmp_path / "delta")
    dt.detach(model)
    assert_bit_identical(model.state_dict(), before)
    dt.load(model, tmp_path / "delta")
    assert torch.equal(model(ids).logits, logits)
