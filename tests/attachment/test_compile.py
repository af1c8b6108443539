"""``torch.compile``: the compiled model with deltas is the model with deltas, whatever is switched afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS
from tests.models.tools import assert_same_tensors, attach, families, gradients, stir

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "backend"), [("llama", "aot_eager"), ("bert", "eager"), ("gpt2", "eager")])
def test_outputs_and_gradients_are_those_of_the_model(name: str, backend: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    expected = family.forward(model)
    family.loss(model).backward()
    wanted = gradients(model)
    model.zero_grad()

    compiled: Any = torch.compile(model, backend=backend)
    close(family.forward(compiled), expected)
    family.loss(compiled).backward()
    assert_same_tensors(gradients(model), wanted, atol=1e-5, rtol=1e-4)


@families("llama")
def test_a_layer_with_a_delta_compiles_into_one_graph(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    attention = model.get_submodule("model.layers.0.self_attn.q_proj")
    x = torch.randn(2, 3, 32)
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    close(compiled(x), attention(x))


class Small(nn.Module):
    """Compiles at once, so that a test can do it many times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh())  # type: ignore[no-any-return]


@torch.no_grad()
def test_what_is_switched_after_compiling_is_seen() -> None:
    model, x = Small(), torch.randn(3, 4)
    base = model(x)
    compiled: Any = torch.compile(model, backend="eager")
    close(compiled(x), base)

    stir(dt.attach(compiled, LoRA(r=2, targets=("first",)), name="a"), seed=1)
    only_a = model(x)
    assert not torch.allclose(only_a, base)
    close(compiled(x), only_a)
    stir(dt.attach(compiled, LoRA(r=2, targets=("first", "last")), name="b"), seed=2)
    both = model(x)
    assert not torch.allclose(both, only_a)
    close(compiled(x), both)

    with dt.disabled(compiled):
        close(compiled(x), base)
    close(compiled(x), both)
    dt.disable(compiled, "b")
    close(compiled(x), only_a)
    dt.enable(compiled)
    with dt.routed(compiled, ["a", None, ["a", "b"]]):
        close(compiled(x), torch.stack([only_a[0], base[1], both[2]]))
    with dt.routed(compiled, [None, ["a", "b"], "a"]):
        close(compiled(x), torch.stack([base[0], both[1], only_a[2]]))

    dt.merge(compiled)
    close(compiled(x), both)
    dt.unmerge(compiled)
    dt.detach(compiled, "b")
    close(compiled(x), only_a)
    dt.detach(compiled)
    close(compiled(x), base)


def test_dropout_in_a_compiled_model_drops_in_training_alone() -> None:
    model, x = Small().eval(), torch.randn(3, 4)
    stir(dt.attach(model, LoRA(r=2, targets=("first",), dropout=0.5)), seed=1)
    compiled: Any = torch.compile(model, backend="eager")
    close(compiled(x), model(x))
    model.train()
    assert not torch.allclose(compiled(x), compiled(x))
