"""Packed batches give the loss and the gradients of the same texts padded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.attention import is_listening
from deltatune.packing import layout as layouts
from deltatune.packing.packed import pack
from deltatune.packing.path import PackedModel, why_not
from deltatune.train.collate import Collator
from tests.models.families import DECODER, FAMILIES, VOCABULARY, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_method, families, fingerprint, stir
from tests.packing.texts import examples

causal = families("llama", "qwen2", "qwen3", "gpt2")


@pytest.fixture(autouse=True, params=[0, 4096], ids=["a call a node", "joined"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "CALL", request.param)


def padded_loss(model: nn.Module, texts: list[dict[str, Any]]) -> Tensor:
    batch = Collator(0)(texts)
    return model(**batch).loss  # type: ignore[no-any-return]


def packed_loss(model: nn.Module, texts: list[dict[str, Any]], least: int = 4) -> Tensor:
    with PackedModel(model).taking_packed():
        return model(packed=pack(texts, least=least)).loss  # type: ignore[no-any-return]


def assert_same_step(model: nn.Module, texts: list[dict[str, Any]]) -> None:
    """Loss and every gradient, within 1e-5 of the largest entry."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    plain = padded_loss(model, texts)
    wanted = torch.autograd.grad(plain, list(trained.values()), allow_unused=True)
    packed = packed_loss(model, texts)
    found = torch.autograd.grad(packed, list(trained.values()), allow_unused=True)
    torch.testing.assert_close(packed, plain.to(packed.dtype), rtol=1e-5, atol=0)
    assert any(grad is not None and grad.any() for grad in wanted)
    for name, ours, theirs in zip(trained, found, wanted, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None and theirs is not None:
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() + 1e-9, name


@causal
@every_method
def test_each_method(row: Row, family: Family) -> None:
    model = family.model().double()
    attach(model, row, family, seed=1)
    assert why_not(model) is None
    assert_same_step(model.train(), examples(VOCABULARY))


@causal
def test_stacked_deltas(family: Family) -> None:
    model = family.model().double()
    for number, name in enumerate(("lora", "prefix", "pfeiffer", "bitfit", "prompt")):
        stir(attach(model, ROWS[name], family, name=name), number)
    assert_same_step(model.train(), examples(VOCABULARY))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations(implementation: str) -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    model.set_attn_implementation(implementation)
    attach(model, ROWS["prefix"], family, seed=1)
    assert_same_step(model.train(), examples(VOCABULARY))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_with_activation_checkpointing(method: str, reentrant: bool) -> None:
    family = FAMILIES["llama"]
    model = family.model().double().train()
    attach(model, ROWS[method], family, seed=1)
    texts = examples(VOCABULARY)
    trained = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(padded_loss(model, texts), trained)
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    with PackedModel(model).taking_packed():  # for the recomputation too
        model(packed=pack(texts, least=4)).loss.backward()
    for parameter, expected in zip(trained, wanted, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_sliding_window() -> None:
    config = transformers.MistralConfig(**DECODER, sliding_window=4)
    model = transformers.MistralForCausalLM(config).double()
    stir(dt.attach(model, dt.LoRA(r=2)))
    assert why_not(model) is None
    assert_same_step(model.train(), examples(VOCABULARY))


@pytest.mark.parametrize(
    "config",
    [
        transformers.Gemma2Config(**DECODER, head_dim=8, final_logit_softcapping=5.0, attn_logit_softcapping=None),
        transformers.GraniteConfig(**DECODER, logits_scaling=4.0),
        transformers.CohereConfig(**DECODER, logit_scale=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_are_made_as_the_model_makes_them(config: Any) -> None:
    model = transformers.AutoModelForCausalLM.from_config(config).double()
    stir(dt.attach(model, dt.LoRA(r=2)))
    assert why_not(model) is None
    assert_same_step(model.train(), examples(VOCABULARY))


def test_a_trained_head_and_a_delta_on_it() -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    stir(dt.attach(model, dt.LoRA(r=2, targets=("q_proj", "lm_head"))))
    dt.attach(model, dt.BitFit(train_also=("lm_head",), add_missing=True), name="head")
    assert_same_step(model.train(), examples(VOCABULARY))


def test_weights_of_tokens() -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    stir(dt.attach(model, dt.LoRA(r=2)))
    texts = [{**each, "weights": torch.rand(len(each["labels"])).tolist()} for each in examples(VOCABULARY)]
    total, weight = torch.tensor(0.0, dtype=torch.double), 0.0
    for text in texts:
        logits = model(input_ids=torch.tensor([text["input_ids"]])).logits[0, :-1]
        each = nn.functional.cross_entropy(logits, torch.tensor(text["labels"][1:]), reduction="none")
        total = total + (each * torch.tensor(text["weights"][1:])).sum()
        weight += sum(w for w, label in zip(text["weights"][1:], text["labels"][1:], strict=True) if label != -100)
    torch.testing.assert_close(packed_loss(model, texts), total / weight, rtol=1e-5, atol=0)


def test_padding_inside_examples_is_taken_out() -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    dt.attach(model, dt.LoRA(r=2))
    texts = examples(VOCABULARY)
    padded = [
        {
            "input_ids": [*each["input_ids"], 0, 0],
            "labels": [*each["labels"], -100, -100],
            "attention_mask": [1] * len(each["input_ids"]) + [0, 0],
        }
        for each in texts
    ]
    assert torch.equal(packed_loss(model, padded), packed_loss(model, texts))


def test_shared_stretches_run_once() -> None:
    texts = examples(VOCABULARY)
    shared, apart = pack(texts, least=4), pack(texts, share=False)
    assert apart.rows == apart.tokens == shared.tokens
    assert shared.rows == shared.tokens - 9 * 3 - 5 * 2


def test_the_model_is_as_it_was_afterwards() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    dt.attach(model, dt.LoRA(r=2))
    before, forward = fingerprint(model), model.forward
    with PackedModel(model).taking_packed():
        assert is_listening(model.model.layers[0].self_attn)
        copied = copy.deepcopy(model)
        stir(dt.deltas(copied)["default"])
        batch = pack(examples(VOCABULARY))
        assert not torch.equal(copied(packed=batch).loss, model(packed=batch).loss)
        plain = family.forward(model)
    assert torch.equal(plain, family.forward(model))
    assert fingerprint(model) == before
    assert model.forward == forward


@families("bert", "t5", "vit")
def test_models_that_can_not_take_them_say_why(family: Family) -> None:
    assert why_not(family.model())


def test_a_model_whose_tokens_meet_elsewhere_says_so() -> None:
    model = FAMILIES["llama"].model()
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out + out.cumsum(1))
    assert "outside of attention" in (why_not(model) or "")


def test_what_a_short_trial_does_not_show_is_read_off_the_config() -> None:
    config = transformers.LlamaConfig(**DECODER)
    config.layer_types = ["chunked_attention", "full_attention"]
    assert "attends in chunks" in (why_not(transformers.LlamaForCausalLM(config)) or "")
    config = transformers.LlamaConfig(**DECODER)
    config.attn_temperature_tuning = True
    assert "where they stand in the batch" in (why_not(transformers.LlamaForCausalLM(config)) or "")
