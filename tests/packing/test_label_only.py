"""Padded batches through the head where they are learned: the loss and the gradients of the model's own loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.packing.label_only import LabelOnly, offset_of
from tests.models.families import DECODER, FAMILIES, ROWS, TOKENS, VOCABULARY, Family
from tests.models.methods import ROWS as METHODS
from tests.models.methods import Row
from tests.models.tools import attach, every_method, families, fingerprint, stir

OFFSETS = {"t5": 0, "t5-gated": 0, "bert-mlm": 0, "llama": 1, "gpt2": 1}
models = families(*OFFSETS)


def batch(family: Family) -> dict[str, Tensor]:
    """A padded batch in which some tokens are learned; nothing but labels of its own for a decoder."""
    inputs = {name: value for name, value in family.inputs().items() if not name.startswith("decoder_")}
    labels = torch.randint(3, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(2))
    labels[0, :3] = labels[1, 2:] = -100
    return {**inputs, "labels": labels}


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True))


def assert_same_step(model: Any, family: Family) -> None:
    inputs = batch(family)
    plain = model(**inputs).loss
    wanted = gradients(model, plain)
    with LabelOnly(model, OFFSETS[family.name]).instead():
        loss = model(**inputs).loss
        found = gradients(model, loss)
    torch.testing.assert_close(loss, plain.to(loss.dtype), rtol=1e-5, atol=0)
    assert any(each is not None and each.any() for each in wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() + 1e-9


@models
@every_method
def test_each_method(row: Row, family: Family) -> None:
    model = family.model().double()
    attach(model, row, family, seed=1)
    assert offset_of(model) == OFFSETS[family.name]
    assert_same_step(model.train(), family)


@models
def test_stacked_deltas(family: Family) -> None:
    model = family.model().double()
    for number, name in enumerate(("lora", "prefix", "pfeiffer", "bitfit", "prompt")):
        stir(attach(model, METHODS[name], family, name=name), number)
    assert_same_step(model.train(), family)


def test_a_trained_head() -> None:
    family = FAMILIES["t5-gated"]
    model = family.model().double()
    stir(dt.attach(model, dt.LoRA(r=2, targets=("query", "lm_head"))))
    assert_same_step(model.train(), family)


@models
def test_the_head_sees_learned_tokens_alone(family: Family) -> None:
    model: Any = family.model().train()
    dt.attach(model, dt.LoRA(r=2, targets=family.targets))
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out[..., 0].numel()))
    inputs = batch(family)
    with LabelOnly(model, OFFSETS[family.name]).instead():
        model(**inputs)
    learned = int((inputs["labels"][:, OFFSETS[family.name] :] != -100).sum())
    assert [count for count in seen if count] == [learned]


def test_it_divides_by_what_it_is_told() -> None:
    family = FAMILIES["t5"]
    model = family.model().double().train()
    dt.attach(model, dt.LoRA(r=2))
    inputs = batch(family)
    with LabelOnly(model, 0).instead():
        mean = model(**inputs).loss
        total = model(**inputs, num_items_in_batch=torch.tensor(1)).loss
    torch.testing.assert_close(total, mean * (inputs["labels"] != -100).sum())


def test_label_smoothing() -> None:
    family = FAMILIES["t5"]
    model = family.model().double().train()
    dt.attach(model, dt.LoRA(r=2))
    inputs = batch(family)
    logits = model(**inputs).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"].flatten(), label_smoothing=0.1)
    with LabelOnly(model, 0).instead(smoothing=0.1):
        torch.testing.assert_close(model(**inputs).loss, expected)


@families("t5", "llama")
def test_the_model_is_as_it_was_afterwards(family: Family) -> None:
    model = family.model().train()
    dt.attach(model, dt.LoRA(r=2))
    before, forward = fingerprint(model), model.forward
    with LabelOnly(model, OFFSETS[family.name]).instead():
        copied = copy.deepcopy(model)
        stir(dt.deltas(copied)["default"])
        assert not torch.equal(copied(**batch(family)).loss, model(**batch(family)).loss)
        plain = family.forward(model)
    assert torch.equal(plain, family.forward(model))
    assert fingerprint(model) == before
    assert model.forward == forward


def test_evaluation_gets_logits() -> None:
    family = FAMILIES["t5"]
    model: Any = family.model()
    dt.attach(model, dt.LoRA(r=2))
    expected = model(**batch(family))
    with LabelOnly(model, 0).instead():
        found = model(**batch(family))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)


@families("bert", "vit")
def test_other_models_have_none(family: Family) -> None:
    assert offset_of(family.model()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.5, 0.001])
def test_a_loss_with_something_more_is_left_alone(share: float, dtype: torch.dtype) -> None:
    config = transformers.MixtralConfig(
        **DECODER, num_local_experts=2, num_experts_per_tok=1, output_router_logits=True, router_aux_loss_coef=share
    )
    assert offset_of(transformers.MixtralForCausalLM(config).to(dtype)) is None


@families("llama")
def test_a_model_that_knows_nothing_does_not_tell_what_it_predicts(family: Family) -> None:
    """Any loss is ln V then, whichever token a label is compared with."""
    model = family.model()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert offset_of(model.bfloat16()) is None
