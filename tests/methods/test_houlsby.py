"""Houlsby adapters against BERT's and LLaMA's sublayers with the equation written into them, in float64."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import deltatune as dt
from deltatune.errors import ConfigError, MergeError
from tests.methods.training import answers, assert_close, backward, doubled, losses
from tests.models.families import FAMILIES, Family
from tests.models.tools import assert_bit_identical, families, stir, values

ACTIVATIONS = {
    "relu": lambda z: z.clamp(min=0),
    "gelu": lambda z: z * (1 + torch.erf(z / 2**0.5)) / 2,
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
}


def adapter(part: Any, activation: str = "gelu") -> Any:
    """A(h) written plainly, with leaves of its own for the gradients."""
    W_down, b_down, W_up, b_up = (
        p.detach().clone().requires_grad_() for p in (part.W_down, part.b_down, part.W_up, part.b_up)
    )
    sigma = ACTIVATIONS[activation]

    def A(h: Tensor) -> Tensor:
        return sigma(h @ W_down.T + b_down) @ W_up.T + b_up

    A.leaves = {"W_down": W_down, "b_down": b_down, "W_up": W_up, "b_up": b_up}  # type: ignore[attr-defined]
    return A


def into_bert(model: nn.Module, adapters: dict[str, Any]) -> None:
    """Post-norm: LN(A(h) + h + x) behind attention and behind the FFN."""
    for site, A in adapters.items():
        block: Any = model.get_submodule(site.removesuffix(".dense"))

        def forward(self: Any, hidden_states: Tensor, input_tensor: Tensor, A: Any = A) -> Tensor:
            h = F.linear(hidden_states, self.dense.weight, self.dense.bias)
            return self.LayerNorm(A(h) + h + input_tensor)

        block.forward = types.MethodType(forward, block)


def into_llama(model: nn.Module, adapters: dict[str, Any]) -> None:
    """Pre-norm: x + h + A(h); the last projections answer h + A(h)."""
    for site, A in adapters.items():
        last: Any = model.get_submodule(site)

        def forward(self: Any, x: Tensor, A: Any = A) -> Tensor:
            h = x @ self.weight.T
            return h + A(h)

        last.forward = types.MethodType(forward, last)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@families("bert", "llama")
def test_the_equation(family: Family, activation: str) -> None:
    model, inputs = doubled(family)
    reference, _ = doubled(family)
    settings: dict[str, Any] = {"m": 6, "activation": activation, "train_norms": False, "train_also": ()}
    delta = stir(dt.attach(model, dt.Houlsby(**settings)))
    assert len(delta.sites) == 4
    adapters = {site: adapter(part, activation) for site, part in delta.items()}
    (into_bert if family.name == "bert" else into_llama)(reference, adapters)

    assert_close(answers(family, model, inputs), answers(family, reference, inputs))
    backward(family, model, inputs)
    backward(family, reference, inputs)
    for site, part in delta.items():
        for name, leaf in adapters[site].leaves.items():
            assert_close(part.get_parameter(name).grad, leaf.grad)


def test_layer_norm_of_the_input() -> None:
    family = FAMILIES["llama"]
    model, _ = doubled(family)
    delta = dt.attach(model, dt.Houlsby(m=6, layer_norm=True, train_norms=False))
    stir(delta)
    (part, *_) = delta.parts
    h = torch.randn(2, 5, 32, dtype=torch.float64)
    normal = (h - h.mean(-1, keepdim=True)) / (h.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert_close(part(h, h), h + adapter(part)(normal * part.w_norm + part.b_norm))


@families("bert", "t5", "llama", "gpt2")
def test_starts_as_the_base(family: Family) -> None:
    model = family.model()
    base = family.forward(model)
    dt.attach(model, dt.Houlsby(m=8, train_also=()), name="zero")
    torch.testing.assert_close(family.forward(model), base, rtol=0, atol=0)
    dt.detach(model)
    delta = dt.attach(model, dt.Houlsby(m=8, init="normal", train_also=()))
    near = family.forward(model)
    assert not torch.equal(near, base)
    torch.testing.assert_close(near, base, rtol=0, atol=2e-2)
    for name in ("W_down", "W_up"):
        drawn = torch.cat([p.flatten() for n, p in delta.named_parameters() if n.endswith(name)])
        assert drawn.abs().max() <= 2e-3
        assert drawn.std().item() == pytest.approx(0.88e-3, rel=0.1)  # of a normal that is cut at twice its deviation
    assert all(not p.any() for n, p in delta.named_parameters() if n.endswith(("b_down", "b_up")))


def test_the_papers_size() -> None:
    """2md + d + m for each of two adapters a layer, the norms and the head."""
    d, m, layers = 32, 64, 2
    model = FAMILIES["bert"].model()
    adapters = 2 * layers * (2 * m * d + d + m)
    norms, head = (2 * layers + 1) * 2 * d, 3 * d + 3
    assert dt.attach(model, dt.Houlsby()).size == adapters + norms + head
    dt.detach(model)
    assert dt.attach(model, dt.Houlsby(train_norms=False, train_also=())).size == adapters
    dt.detach(model)
    halves = dt.attach(model, dt.Houlsby(m=None, reduction=16, train_norms=False, train_also=()))
    assert halves.size == 2 * layers * (2 * 2 * d + d + 2)


def test_norms_train_in_the_same_layers() -> None:
    delta = dt.attach(FAMILIES["llama"].model(), dt.Houlsby(layers="last:1"))
    assert all(site.startswith("model.layers.1.") for site in delta.sites)
    assert len(delta.sites) == 4


def test_cross_attention_gets_an_adapter_of_its_own() -> None:
    delta = dt.attach(FAMILIES["t5"].model(), dt.Houlsby(m=4, train_norms=False))
    assert sum(".EncDecAttention.o" in site for site in delta.sites) == 2
    assert len(delta.sites) == 2 * 2 + 2 * 3


def test_dropout_acts_in_training_only() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = stir(dt.attach(model, dt.Houlsby(m=8, dropout=0.5)))
    assert torch.equal(family.forward(model), family.forward(model))
    delta.train()
    assert not torch.equal(family.forward(model), family.forward(model))


def test_a_merge_is_refused_with_the_reason() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    stir(dt.attach(model, dt.Houlsby(m=8)))
    before = values(model)
    with pytest.raises(MergeError, match="activation between its two matrices") as error:
        dt.merge(model)
    assert "\n" not in str(error.value)
    assert_bit_identical(values(model), before)


@families("bert", "llama")
def test_saved_and_loaded(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, dt.Houlsby(m=8, layer_norm=True)))
    dt.save(delta, tmp_path)
    fresh = family.model()
    assert dt.load(fresh, tmp_path).method == delta.method
    torch.testing.assert_close(family.forward(fresh), family.forward(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"m": 0},
        {"reduction": 0},
        {"activation": "nope"},
        {"init": "nope"},
        {"dropout": 1.0},
        {"targets": ()},
    ],
)
def test_refuses(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"houlsby\.{next(iter(settings))}: expected .*, found"):
        dt.Houlsby(**settings)


@families("bert", "llama")
def test_it_learns(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.Houlsby(m=8))
    before, after = losses(family, model, lr=0.02)
    assert after < 0.7 * before
