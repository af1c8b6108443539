"""Stacks of layers: which a model has, how it counts, and what a run of one leaves in attention."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.calls import Call, Stamp, named_inputs
from deltatune.attachment.part import HOOK, Rows
from deltatune.attachment.routing import Routing
from deltatune.attachment.stacks import (
    evaluating,
    first_position,
    handed_to_checkpoints,
    listening,
    positions_of,
    record,
    rotated,
    shift_positions,
    stacks_of,
    widen_mask,
    without_checkpoints,
)
from deltatune.errors import AttachError, SiteError
from tests.models.families import DECODER, FAMILIES, SIZES, VOCABULARY
from tests.models.tools import assert_close, fingerprint

OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "vocab_size": VOCABULARY}


def opt() -> Any:
    sizes = {**OPT, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**sizes)).eval()


def roberta() -> Any:
    config = transformers.RobertaConfig(**SIZES, vocab_size=VOCABULARY, max_position_embeddings=32, pad_token_id=1)
    return transformers.RobertaForMaskedLM(config).eval()


@pytest.mark.parametrize(
    ("build", "encoder", "decoder"),
    [
        (FAMILIES["llama"].model, None, "model"),
        (lambda: FAMILIES["llama"].model().model, None, ""),
        (FAMILIES["gpt2"].model, None, "transformer"),
        (FAMILIES["bert"].model, "bert", None),
        (FAMILIES["t5"].model, "encoder", "decoder"),
        (roberta, "roberta", None),
        (opt, None, "model.decoder"),  # its head calls the inner one past the outer
    ],
    ids=["llama", "bare", "gpt2", "bert", "t5", "roberta", "opt"],
)
def test_stacks(build: Any, encoder: str | None, decoder: str | None) -> None:
    model = build()
    found = stacks_of(model)
    assert [None if site is None else site.name for site in found] == [encoder, decoder]
    assert all(model.get_submodule(site.name) is site.module for site in found if site is not None)


@pytest.mark.parametrize("name", ["vit", "clip", "unet"])
def test_a_model_that_takes_no_tokens_is_refused(name: str) -> None:
    with pytest.raises(SiteError, match="expected a model that takes tokens, found none that takes inputs_embeds"):
        stacks_of(FAMILIES[name].model())


def call(model: Any, rows: Any = None, **inputs: Any) -> Call:
    """A call of a model's stack in which a delta ``a`` has its turn."""
    site = next(site for site in stacks_of(model) if site is not None)
    routing = Routing() if rows is None else Routing.of(rows)
    return Call(site.module, inputs, None, routing, name="a")  # type: ignore[arg-type]


def counted(model: Any, table: str, **inputs: Any) -> Tensor:
    """The positions that a model itself looks up."""
    seen: list[Any] = []
    handle = model.get_submodule(table).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids", args[0] if args else None)),
        with_kwargs=True,
    )
    model(**inputs)
    handle.remove()
    return seen[0].expand(len(inputs["input_ids"]), -1)  # type: ignore[no-any-return]


TABLES = {
    "gpt2": (FAMILIES["gpt2"].model, "transformer.wpe"),
    "bert": (FAMILIES["bert"].model, "bert.embeddings.position_embeddings"),
    "roberta": (roberta, "roberta.embeddings.position_embeddings"),
    "opt": (opt, "model.decoder.embed_positions"),
}


@pytest.mark.parametrize(("build", "table"), TABLES.values(), ids=list(TABLES))
def test_positions_are_counted_as_the_model_does(build: Any, table: str) -> None:
    model = build()
    ids = torch.randint(3, VOCABULARY, (2, 5))
    ids[1, 3:] = 1  # RoBERTa's padding, which it does not count
    expected = counted(model, table, input_ids=ids)
    assert torch.equal(positions_of(call(model, input_ids=ids)), expected)
    assert first_position(call(model, input_ids=ids).module) == expected.min() + (model.config.model_type == "roberta")

    shifted = call(model, ["a", None], input_ids=ids)
    shift_positions(shifted, 4)
    assert torch.equal(shifted.inputs["position_ids"], expected + torch.tensor([[4], [0]]))


def test_given_positions_are_taken_and_a_cache_is_counted_on() -> None:
    model = FAMILIES["gpt2"].model()
    ids = torch.randint(3, VOCABULARY, (2, 5))
    given = torch.tensor([[7, 8, 9, 10, 11]])
    assert torch.equal(positions_of(call(model, input_ids=ids, position_ids=given)), given.expand(2, -1))
    cache = model(ids).past_key_values
    after = call(model, input_ids=ids[:, :2], past_key_values=cache)
    assert after.past == 5
    assert positions_of(after).tolist() == [[5, 6]] * 2


def test_a_model_that_counts_by_its_mask_needs_positions_beside_padding_on_the_left() -> None:
    ids, mask = torch.randint(3, VOCABULARY, (2, 3)), torch.tensor([[1, 1, 0], [0, 1, 1]])
    with pytest.raises(AttachError, match=r"pass attention_mask\.cumsum\(1\) - 1"):
        positions_of(call(opt(), input_ids=ids, attention_mask=mask))


def test_masks_widen_on_either_side_and_of_one_form_only() -> None:
    mask, seen = torch.tensor([[1, 0], [1, 1]]), torch.tensor([[True], [False]])
    assert widen_mask(mask, seen, 2, front=True).tolist() == [[1, 1, 0], [0, 1, 1]]
    assert widen_mask(mask, seen, 2, front=False).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert widen_mask(None, seen, 2, front=True).tolist() == [[1, 1, 1], [0, 1, 1]]
    with pytest.raises(AttachError, match=r"expected \[batch, tokens\] beside a prompt, found \[2, 1, 1, 2\]"):
        widen_mask(mask[:, None, None], seen, 2, front=True)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi"])
def test_keys_rotate_to_where_the_model_would_have_put_them(name: str) -> None:
    if name == "phi":  # turns a part of each head
        model: Any = transformers.PhiForCausalLM(transformers.PhiConfig(**DECODER)).eval()
    else:
        model = FAMILIES[name].model()
    attention = model.model.layers[1].self_attn
    ids = torch.randint(3, VOCABULARY, (1, 4))
    noted = {}
    for by in (0, -4):
        with listening(model, [attention]), record([attention]) as keys:
            model(ids, position_ids=torch.arange(by, by + 4)[None])
        noted[by] = keys[attention][0][0]
    assert not torch.allclose(noted[0], noted[-4], atol=1e-2)
    assert_close(rotated(model, attention, noted[0], -4), noted[-4])
    assert_close(rotated(model, attention, noted[-4], 4), noted[0])
    assert HOOK not in vars(attention)
    assert model.config._attn_implementation == "sdpa"


def test_a_rotation_of_an_unknown_form_is_refused() -> None:
    text = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**DECODER, head_dim=8))
    with pytest.raises(SiteError, match="expected rotary positions of the usual form"):
        rotated(text, text.model.layers[0].self_attn, torch.randn(2, 3, 8), 1)


def test_evaluating_gives_each_module_its_own_mode_back() -> None:
    model = FAMILIES["llama"].model().train()
    model.model.layers[0].eval()
    before = fingerprint(model)["training"]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert fingerprint(model)["training"] == before
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert fingerprint(model)["training"] == before


class Holder:
    front: list[Rows]


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_a_recomputed_layer_finds_what_stood_there_in_its_forward_pass(reentrant: bool) -> None:
    family, holder = FAMILIES["llama"], Holder()
    model: Any = family.model().train().requires_grad_(False)
    attention = model.model.layers[1].self_attn
    vars(attention)[HOOK] = lambda key, value: holder.front
    leaf = torch.randn(2, 3, 8, requires_grad=True)

    def gradient() -> Tensor:
        made = leaf.tanh()  # a graph that can be gone through only once
        losses = []
        for factor in (1.0, 3.0):  # two passes before one backward, each with rows of its own
            holder.front = [Rows(made * factor, made - factor, (0, 2))]
            with handed_to_checkpoints(model.model, {"layers.1.self_attn": holder}):
                losses.append(family.loss(model))
            holder.front = []
        leaf.grad = None
        (losses[0] * losses[1]).backward()
        assert leaf.grad is not None
        return leaf.grad

    with listening(model, [attention]):
        expected = gradient()
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
        functions = [vars(layer)["_gradient_checkpointing_func"] for layer in model.model.layers]
        assert_close(gradient(), expected)
    assert [vars(layer)["_gradient_checkpointing_func"] for layer in model.model.layers] == functions
    assert expected.abs().min() > 0


def test_a_run_without_checkpoints_gives_the_switches_back() -> None:
    model: Any = FAMILIES["llama"].model()
    model.activation_checkpointing_enable()
    before = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
    assert True in before
    with without_checkpoints(model):
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert [getattr(module, "gradient_checkpointing", None) for module in model.modules()] == before


def test_a_stamp_tells_every_change() -> None:
    one, two = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def stamp(*facts: object) -> Stamp:
        return Stamp([one, two], *facts)

    assert stamp() == stamp()
    assert stamp(1) == stamp(1)
    assert stamp(1) != stamp(2)
    assert stamp() != Stamp([one])
    assert stamp() != Stamp([two, one])
    before = stamp()
    with torch.no_grad():
        one.add_(1)
    assert stamp() != before
    before = stamp()
    two.data = torch.ones(3)
    assert stamp() != before
    before = stamp()
    two = nn.Parameter(two.data)  # the same memory under another tensor
    assert stamp() != before
    assert Stamp([torch.ones(1)]) != Stamp([torch.ones(1)])  # both are gone


def test_a_stamp_of_tensors_that_count_no_changes_never_holds() -> None:
    with torch.inference_mode():
        tensor = torch.ones(3)
    assert Stamp([tensor]) != Stamp([tensor])


def test_a_stamp_keeps_no_tensor_alive() -> None:
    tensor = torch.ones(3)
    alive, stamp = weakref.ref(tensor), Stamp([tensor])
    del tensor
    gc.collect()
    assert alive() is None
    assert stamp != Stamp([])


def test_rows_are_grouped_by_what_else_acts_on_them() -> None:
    routing = Routing.of(["p", ["p", "l"], None, ["p", "q"]])
    hidden = frozenset({"p", "q"})
    groups = routing.groups("p", 4, hidden)
    assert groups == [
        ((0, 3), Routing((frozenset(),))),
        ((1,), Routing((frozenset({"l"}),))),
    ]
    assert [rows for rows, _ in routing.groups("p", 8, hidden)] == [(0, 1, 6, 7), (2, 3)]
    assert routing.groups("x", 4, hidden) == []
    assert Routing().groups("p", 4, hidden) == [(None, Routing(without=hidden))]
    assert [rows for rows, _ in Routing.of(["p", "p"]).groups("p", 4, hidden)] == [None]


def test_inputs_by_position_get_their_names() -> None:
    stack: Any = FAMILIES["llama"].model().model
    ids, mask = torch.ones(1, 2), torch.ones(1, 2)
    named = named_inputs(stack, (ids, mask), {"use_cache": False})
    assert named == {"input_ids": ids, "attention_mask": mask, "use_cache": False}


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_stack_may_be_called_by_position(name: str) -> None:
    family = FAMILIES[name]
    model = family.model()
    dt.attach(model, dt.PromptTuning(tokens=2))
    stack = next(site.module for site in stacks_of(model) if site is not None)
    inputs = family.inputs()
    by_name = stack(**inputs)[0]
    order = ("input_ids", "past_key_values", "attention_mask") if name == "gpt2" else ("input_ids", "attention_mask")
    assert torch.equal(stack(*(inputs.get(each) for each in order))[0], by_name)
