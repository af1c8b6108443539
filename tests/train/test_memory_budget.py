"""A memory budget: what is predicted is what is kept, and no more layers are checkpointed than it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.train.kept import Kept, layers_of, measure
from deltatune.train.lean import lean
from deltatune.train.memory_budget import MemoryPlan, budgeted, plan_memory
from tests.models.families import DECODER, FAMILIES
from tests.models.tools import assert_same_tensors, fingerprint, gradients, stir

N = 40
LAYERS = 6
PLENTY = 10**12


@pytest.fixture
def model() -> Any:
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "num_hidden_layers": LAYERS}))
    stir(dt.attach(made.train(), dt.LoRA(r=4, targets="all_linear", dropout=0.2)), size=0.05)
    return made


def run(model: nn.Module) -> Any:
    return model(input_ids=torch.arange(N)[None]).logits.float().pow(2).mean()


def kept_by(model: nn.Module) -> Kept:
    return measure(model, lambda: model(input_ids=torch.arange(N)[None]))


@pytest.mark.parametrize("is_lean", [False, True])
def test_with_plenty_nothing_is_checkpointed_and_the_prediction_is_exact(model: Any, is_lean: bool) -> None:
    if is_lean:
        with lean(model):
            plan, kept = plan_memory(model, PLENTY, N), kept_by(model)
    else:
        plan, kept = plan_memory(model, PLENTY, N), kept_by(model)
    assert plan.checkpointed == ()
    assert plan.activations == kept.total
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    assert plan.states == 3 * trained
    assert plan.weights == sum(p.nbytes for p in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("count", range(1, LAYERS))
def test_as_many_layers_as_it_takes(model: Any, count: int) -> None:
    plenty, kept = plan_memory(model, PLENTY, N), kept_by(model)
    names = list(layers_of(model))
    gain = sum(kept.layers[name] - kept.inputs[name] for name in names[:count])
    plan = plan_memory(model, plenty.total - gain, N)
    assert plan.checkpointed == tuple(names[:count])
    assert plan.total == plenty.total - gain
    assert plan_memory(model, plan.total - 1, N).checkpointed == tuple(names[: count + 1])


def test_what_is_kept_under_a_plan_is_what_it_says(model: Any) -> None:
    kept = kept_by(model)
    with budgeted(model, plan_memory(model, PLENTY, N).total - 1, N) as plan:
        now = kept_by(model)
    (first,) = plan.checkpointed
    assert now.layers[first] <= kept.inputs[first] + 16  # and the dummy by which torch knows the checkpoint
    assert now.total <= plan.activations + 16
    others = set(kept.layers) - {first}
    assert {name: now.layers[name] for name in others} == {name: kept.layers[name] for name in others}


def least(model: Any) -> MemoryPlan:
    """The plan that checkpoints everything."""
    with pytest.raises(ConfigError) as raised:
        plan_memory(model, 0, N)
    assert "expected at least" in str(raised.value)
    kept, plenty = kept_by(model), plan_memory(model, PLENTY, N)
    names = list(layers_of(model))
    worst = sum(kept.inputs.values()) + kept.layers[names[-1]]
    floor = plenty.weights + plenty.states + max(worst, sum(kept.inputs.values()) + kept.rest)
    return plan_memory(model, floor, N)


def test_gradients_are_the_same_with_every_layer_checkpointed(model: Any) -> None:
    def backward() -> Any:
        torch.manual_seed(3)
        run(model).backward()
        found = gradients(model)
        model.zero_grad()
        return found

    expected, plan = backward(), least(model)
    assert len(plan.checkpointed) == LAYERS
    with budgeted(model, plan.total, N):
        assert sum(kept_by(model).layers.values()) < 0.2 * sum(plan_layers(model))
        assert_same_tensors(backward(), expected)
        with dt.routed(model, ["default"]):
            assert_same_tensors(backward(), expected)


def plan_layers(model: Any) -> list[int]:
    fresh = transformers.LlamaForCausalLM(model.config).train()
    dt.attach(fresh, dt.LoRA(r=4, targets="all_linear", dropout=0.2))
    return list(kept_by(fresh).layers.values())


def test_layers_that_keep_nothing_are_not_checkpointed() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "num_hidden_layers": LAYERS})).train()
    dt.attach(model, dt.LoRA(r=4, targets="all_linear", layers="last:2"))
    plan = plan_memory(model, plan_memory(model, PLENTY, N).total - 1, N)
    assert plan.checkpointed == ("model.layers.4",)
    with budgeted(model, plan.total, N):
        kept = kept_by(model)
    assert [size > 0 for size in kept.layers.values()] == [False] * 4 + [True] * 2


def test_the_model_and_the_random_stream_are_as_before(model: Any) -> None:
    before, stream = fingerprint(model), torch.get_rng_state()
    with budgeted(model, plan_memory(model, PLENTY, N).total - 1, N):
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_budget_that_is_too_small_says_what_it_takes(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"memory_budget: expected at least \d+ MiB for 40 tokens, found 0 MiB"):
        plan_memory(model, 0, N)


def test_a_model_without_layers_of_transformers() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    dt.attach(model, dt.LoRA(r=2, targets=("0",)))
    with pytest.raises(ConfigError, match="found none in Sequential"):
        plan_memory(model, PLENTY, N, run=lambda model, ids: model(torch.randn(ids.shape[1], 4)))


def test_encoder_decoders_are_planned_too() -> None:
    model = FAMILIES["t5-gated"].model().train()
    dt.attach(model, dt.LoRA(r=4, targets="all_linear"))

    def both(model: nn.Module, ids: Any) -> Any:
        return model(input_ids=ids, labels=ids).loss

    plenty = plan_memory(model, PLENTY, N, run=both)
    plan = plan_memory(model, plenty.total - 1, N, run=both)
    assert plan.layers == 4
    assert len(plan.checkpointed) == 1
    assert "1 of 4 layers" in str(plan)
