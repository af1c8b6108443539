"""Lean training: the same losses and gradients from fewer kept bytes, and the model as before."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deltatune as dt
from deltatune.train.kept import measure
from deltatune.train.lean import lean
from tests.models.families import DECODER, FAMILIES, ROWS, TOKENS, Family, t5_config
from tests.models.methods import ROWS as METHODS
from tests.models.methods import Row
from tests.models.tools import attach, every_method, families, fingerprint, gradients, stir

GATED = ("llama", "qwen2", "qwen3", "t5-gated")
NORMED = ("bert", "t5", "gpt2", "vit", "clip")
EXACT = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
"""How far gradients may be from the plain ones, as a share of their norm."""


def step(model: nn.Module, family: Family) -> tuple[Tensor, Tensor]:
    """The loss, and all gradients in one vector."""
    torch.manual_seed(3)
    loss = family.loss(model.train())
    loss.backward()
    found = torch.cat([gradient.flatten() for gradient in gradients(model).values()])
    model.zero_grad()
    return loss.detach(), found


def assert_alike(model: nn.Module, family: Family, share: float) -> None:
    loss, expected = step(model, family)
    with lean(model):
        assert replaced(model)
        lean_loss, found = step(model, family)
    assert torch.equal(lean_loss, loss)
    assert expected.norm() > 0
    assert (found - expected).norm() <= share * expected.norm()


def replaced(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@families(*GATED, *NORMED)
@every_method
def test_every_method_learns_the_same(family: Family, row: Row) -> None:
    model = family.model()
    attach(model, row, family, seed=1)
    assert_alike(model, family, EXACT[torch.float32])


@families(*GATED)
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_all_linear_layers_in_every_precision(family: Family, dtype: torch.dtype) -> None:
    model = family.model().to(dtype)
    stir(dt.attach(model, dt.LoRA(r=4, targets="all_linear", dropout=0.2)), size=0.05)
    assert_alike(model, family, EXACT[dtype])


@families(*GATED)
def test_stacked_methods(family: Family) -> None:
    model = family.model().double()
    for name in ("lora", "dora", "ia3", "pfeiffer", "bitfit", "norm"):
        attach(model, METHODS[name], family, name, seed=1)
    assert_alike(model, family, EXACT[torch.float64])


@families("llama")
def test_under_autocast(family: Family) -> None:
    model = family.model()
    stir(dt.attach(model, dt.LoRA(r=4, targets="all_linear")), size=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_alike(model, family, EXACT[torch.bfloat16])


@families("llama")
def test_routed_rows(family: Family) -> None:
    model = family.model().double()
    for name in "ab":
        stir(dt.attach(model, dt.LoRA(r=4, targets="all_linear"), name=name), size=0.05)
    with dt.routed(model, ["a", None, "b"]):
        assert_alike(model, family, EXACT[torch.float64])


def test_dropout_between_the_matrices_is_drawn_as_ever() -> None:
    import transformers

    config = t5_config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.3)
    gated = FAMILIES["t5-gated"]
    model = transformers.T5ForConditionalGeneration(config).double()
    stir(dt.attach(model, dt.LoRA(r=4, targets="all_linear")), size=0.05)
    assert_alike(model, gated, EXACT[torch.float64])


@families("llama", "t5-gated")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers(family: Family, reentrant: bool) -> None:
    model: Any = family.model().double()
    stir(dt.attach(model, dt.LoRA(r=4, targets="all_linear", dropout=0.3)), size=0.05)
    _, expected = step(model, family)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    with lean(model):
        _, found = step(model, family)
    assert (found - expected).norm() <= EXACT[torch.float64] * expected.norm()


WIDTH, INNER = DECODER["hidden_size"], DECODER["intermediate_size"]


@pytest.mark.parametrize(
    ("targets", "saved"),
    # act(gate) and the output of the first norm; and the product, the second norm's output
    [(("query", "value"), INNER + WIDTH), ("all_linear", 2 * INNER + 2 * WIDTH)],
)
def test_bytes_kept_by_a_layer(targets: Any, saved: int) -> None:
    family = FAMILIES["llama"]
    model = family.model().train()
    dt.attach(model, dt.LoRA(r=4, targets=targets))

    def of_last_layer() -> int:
        return list(measure(model, lambda: family.loss(model)).layers.values())[-1]

    plain = of_last_layer()
    with lean(model):
        # Beside each norm's input torch keeps a root mean square a token, which is found again too.
        assert plain - of_last_layer() == 4 * ROWS * TOKENS * (saved + 2)
    assert of_last_layer() == plain


@families("llama", "t5-gated", "bert")
def test_nothing_is_kept_without_gradients(family: Family) -> None:
    model = family.model()
    dt.attach(model, dt.LoRA(targets=family.targets)).freeze()
    with lean(model):
        assert measure(model, lambda: family.loss(model)).total == 0


@families("llama", "t5-gated", "gpt2")
def test_the_model_is_as_before(family: Family) -> None:
    model = family.model().train()
    attach(model, METHODS["lora"], family, seed=1)
    before, answer = fingerprint(model), family.forward(model)
    with lean(model):
        assert torch.equal(family.forward(model), answer)
    assert fingerprint(model) == before
    with pytest.raises(KeyError), lean(model):
        raise KeyError
    assert fingerprint(model) == before
    assert not replaced(model)


def test_a_copy_made_meanwhile_is_independent() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    with lean(model):
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
    torch.testing.assert_close(family.forward(twin), family.forward(family.model()), rtol=0, atol=0)


class Doubled(nn.Module):
    """Has the names of a gated MLP, and another function."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * 2  # type: ignore[no-any-return]


class DoubledNorm(nn.LayerNorm):
    """Is called with something beside its input."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * gate


def test_what_only_looks_alike_is_left_alone() -> None:
    model = nn.Sequential(Doubled(), DoubledNorm(4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    with lean(model):
        assert replaced(model) == []
    with lean(nn.Sequential(nn.LayerNorm(4))) as _, lean(other := nn.Sequential(nn.LayerNorm(4))):
        assert replaced(other) == ["0"]


def test_a_forward_of_someone_else_is_left_alone() -> None:
    model = nn.Sequential(nn.LayerNorm(4))
    theirs = model[0].forward = lambda x: x
    with lean(model):
        assert model[0].forward is theirs
    assert model[0].forward is theirs


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_models_leave_it_to_the_compiler() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    stir(dt.attach(model, dt.LoRA(r=4, targets="all_linear")), size=0.05)
    loss, expected = step(model, family)
    compiled = torch.compile(model, backend="eager")
    with lean(compiled):
        found_loss, found = step(compiled, family)
    torch.testing.assert_close(found_loss, loss)
    assert (found - expected).norm() <= EXACT[torch.float32] * expected.norm()


@pytest.mark.parametrize("around", [lean, lambda _: contextlib.nullcontext()], ids=["lean", "plain"])
def test_layers_below_all_deltas_keep_nothing(around: Any) -> None:
    family = FAMILIES["llama"]
    model = family.model().train()
    dt.attach(model, dt.LoRA(r=4, targets="all_linear", layers="last:1"))
    with around(model):
        lower, upper = measure(model, lambda: family.loss(model)).layers.values()
    assert lower == 0
    assert upper > 0
