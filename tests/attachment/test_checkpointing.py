"""Gradient checkpointing recomputes a layer in backward: the same dropout, the same routes, the same gradients."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import deltatune as dt
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import assert_same_tensors, attach, every_method, families, fingerprint, gradients, stir

CHECKPOINTED = ("bert", "t5", "llama", "gpt2", "vit", "clip")
either_way = pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])


def enable(model: Any, reentrant: bool) -> None:
    """Switch checkpointing on, as ``transformers`` has it."""
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:  # torch recomputes in this way only what has an input that requires gradients
        model.enable_input_require_grads()


def backward(model: nn.Module, family: Family, context: Any = None) -> dict[str, Tensor]:
    """The gradients of the deltas; the context, if any, is left before the backward pass."""
    torch.manual_seed(3)
    model.train()
    with context or contextlib.nullcontext():
        loss = family.loss(model)
    loss.backward()
    found = {name: gradient for name, gradient in gradients(model).items() if name.startswith("deltatune.")}
    model.zero_grad()
    return found


@families(*CHECKPOINTED)
@every_method
@either_way
def test_gradients_are_those_without_checkpointing(family: Family, row: Row, reentrant: bool) -> None:
    model = family.model()
    attach(model, row, family, seed=1)
    expected = backward(model, family)
    enable(model, reentrant)
    assert_same_tensors(backward(model, family), expected)


@families("bert", "llama", "t5")
@either_way
def test_dropout_is_drawn_again_as_it_was(family: Family, reentrant: bool) -> None:
    model = family.model()
    stir(dt.attach(model, LoRA(targets=family.targets, dropout=0.4)))
    expected = backward(model, family)
    torch.manual_seed(4)
    other = family.loss(model)
    torch.manual_seed(5)
    assert not torch.equal(family.loss(model), other)
    enable(model, reentrant)
    assert_same_tensors(backward(model, family), expected)


@pytest.mark.parametrize(
    ("family", "reentrant"),
    [*((FAMILIES[name], way) for name in CHECKPOINTED for way in (False, True)), (FAMILIES["unet"], False)],
    ids=[*(f"{name}{way}" for name in CHECKPOINTED for way in ("", "-reentrant")), "unet"],
)
def test_routes_that_are_left_before_backward_still_hold(family: Family, reentrant: bool) -> None:
    model = family.model()
    stir(dt.attach(model, LoRA(r=2, targets=family.targets, dropout=0.4), name="a"), seed=1)
    attach(model, ROWS["lora"], family, "b", seed=2)
    everywhere = backward(model, family)
    expected = backward(model, family, dt.routed(model, ["a", None, "b"]))
    assert any(not torch.allclose(everywhere[name], gradient) for name, gradient in expected.items())

    if family.name == "unet":
        model.enable_gradient_checkpointing()
    else:
        enable(model, reentrant)
    functions = checkpointing(model)
    assert_same_tensors(backward(model, family, dt.routed(model, ["a", None, "b"])), expected)
    assert checkpointing(model) == functions
    assert_same_tensors(backward(model, family), everywhere)


def checkpointing(model: nn.Module) -> dict[str, object]:
    """What each layer is checkpointed with."""
    return {name: vars(m).get("_gradient_checkpointing_func") for name, m in model.named_modules()}


@families("bert")
@either_way
def test_disabled_that_is_left_before_backward_still_holds(family: Family, reentrant: bool) -> None:
    # A base parameter is trained through the disabled model: its gradient must not see the delta.
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    weight = model.get_parameter("bert.encoder.layer.0.attention.self.query.weight").requires_grad_(True)

    def gradient() -> Tensor:
        torch.manual_seed(3)
        model.train().zero_grad()
        with dt.disabled(model):
            loss = family.loss(model)
        loss.backward()
        assert weight.grad is not None
        return weight.grad.clone()

    expected = gradient()
    enable(model, reentrant)
    torch.testing.assert_close(gradient(), expected)
    assert not any(name.startswith("deltatune.") for name in gradients(model))


def test_own_checkpoints_take_the_routing_from_the_library() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    delta = stir(dt.attach(model, LoRA(r=2, targets=("0",)), name="a"), seed=1)
    x = torch.randn(2, 4)

    def gradient(run: Any) -> list[Tensor]:
        with dt.routed(model, ["a", None]):
            output = run(x)
        return list(torch.autograd.grad(output.pow(2).sum(), list(delta.parameters())))

    expected = gradient(model)
    found = gradient(lambda x: checkpoint(model, x, use_reentrant=False, context_fn=dt.checkpoint_contexts(model)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@families("llama")
def test_checkpointing_leaves_nothing_behind(family: Family) -> None:
    model, control = family.model(), family.model()
    attach(model, ROWS["lora"], family, seed=1)
    for each in (model, control):
        enable(each, reentrant=False)
        with dt.routed(model, [None] * 3):
            family.loss(each)
        each.activation_checkpointing_disable()
    dt.detach(model)
    assert fingerprint(model) | {"objects": 0} == fingerprint(control) | {"objects": 0}


@families("llama")
def test_a_checkpointed_layer_keeps_the_options_it_was_given(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    calls = []

    def recorded(run: Any, *args: Any) -> Any:
        calls.append(args)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)

    expected = backward(model, family, dt.routed(model, ["default", None, None]))
    model._set_gradient_checkpointing(gradient_checkpointing_func=recorded)
    assert_same_tensors(backward(model, family, dt.routed(model, ["default", None, None])), expected)
    assert len(calls) == model.config.num_hidden_layers
