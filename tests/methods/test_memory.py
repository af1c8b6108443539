"""What a low-rank update keeps for the backward pass: the one input that its sites share, as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES
from tests.models.tools import stir

TOKENS, RANK, WIDTH = 64, 4, 32


def saved(run: Callable[[], Any]) -> dict[int, Tensor]:
    """The distinct tensors that a computation keeps for its backward pass, by where they lie."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sites_that_read_one_input_keep_it_once_and_as_it_is(dtype: torch.dtype, dropout: float) -> None:
    model = FAMILIES["llama"].model().to(dtype).train()
    targets = ("query", "key", "value")
    delta = stir(dt.attach(model, LoRA(r=RANK, targets=targets, layers=0, dropout=dropout)))
    layer: Any = model.get_submodule("model.layers.0.self_attn")
    x = torch.randn(2, TOKENS // 2, WIDTH, dtype=dtype)
    kept = saved(lambda: [layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)])

    own = {parameter.data_ptr() for parameter in delta.parameters()}
    activations = {place: tensor for place, tensor in kept.items() if place not in own}
    large = [place for place, tensor in activations.items() if tensor.numel() > TOKENS * RANK]
    assert large == [x.data_ptr()]
    # Beside it one product of rank r for each site, in the same precision.
    small = [tensor for place, tensor in activations.items() if place != x.data_ptr()]
    assert sorted(tensor.numel() for tensor in small) == [TOKENS * RANK] * len(targets)
    assert {tensor.dtype for tensor in activations.values()} == {dtype}


def test_the_shared_input_is_the_one_the_base_keeps() -> None:
    # With trainable base weights, the projections keep x too: the delta must not add a second copy.
    model = nn.ModuleDict({"first": nn.Linear(WIDTH, 8), "last": nn.Linear(WIDTH, 8)})
    dt.attach(model, LoRA(r=RANK, targets=("first", "last")))
    model["first"].weight.requires_grad_(True)
    x = torch.randn(TOKENS, WIDTH)
    kept = saved(lambda: [model["first"](x), model["last"](x)])
    assert [place for place, tensor in kept.items() if tensor.shape == x.shape] == [x.data_ptr()]


def test_under_autocast_the_float32_input_is_shared_too() -> None:
    model = nn.ModuleDict({"first": nn.Linear(WIDTH, 8), "last": nn.Linear(WIDTH, 8)})
    dt.attach(model, LoRA(r=RANK, targets=("first", "last")))
    x = torch.randn(TOKENS, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kept = saved(lambda: [model["first"](x), model["last"](x)])
    assert [place for place, tensor in kept.items() if tensor.shape == x.shape] == [x.data_ptr()]


def test_without_gradients_nothing_is_kept() -> None:
    model = FAMILIES["llama"].model()
    dt.attach(model, LoRA()).freeze()
    assert saved(lambda: FAMILIES["llama"].loss(model)) == {}
