"""Rows in front of attention: the arithmetic against plain float64, and the base's own attention given back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.attention import attention, heads_of, listen, unlisten
from deltatune.attachment.part import HOOK, Rows
from deltatune.errors import AttachError, SiteError
from tests.models.families import DECODER, FAMILIES, SIZES, VOCABULARY
from tests.models.tools import assert_close, families, fingerprint, stir

BATCH, HEADS, KV_HEADS, WIDTH, KEYS = 3, 4, 2, 8, 6


class Attention(nn.Module):
    """As much of an attention module as an attention function looks at."""

    num_key_value_groups = HEADS // KV_HEADS

    def __init__(self, front: list[Rows], is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal
        vars(self)[HOOK] = lambda key, value: front


def eager_attention_forward(  # what a model file has
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **options: Any
) -> tuple[Tensor, Tensor]:
    scores = query @ key.repeat_interleave(HEADS // KV_HEADS, dim=1).transpose(2, 3) * scaling
    scores = scores + options.get("position_bias", torch.zeros(()))
    weights = (scores if mask is None else scores + mask).softmax(dim=-1)
    return (weights @ value.repeat_interleave(HEADS // KV_HEADS, dim=1)).transpose(1, 2), weights


def rows(p: int, taken: tuple[int, ...] | None = None) -> Rows:
    return Rows(*(torch.randn(KV_HEADS, p, WIDTH, dtype=torch.float64) for _ in "kv"), taken)  # type: ignore[misc]


def plain(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, front: list[Rows], bias: Tensor | None) -> Tensor:
    """Attention with [P_K; K] and [P_V; V], one row, one head and one query at a time."""
    out = torch.zeros_like(query)
    for b, h, i in itertools.product(range(BATCH), range(HEADS), range(query.shape[2])):
        own = h // (HEADS // KV_HEADS)
        mine = [r for r in front if r.taken is None or b in r.taken]
        keys = torch.cat([*(r.keys[own] for r in mine), key[b, own][seen[b, i]]])
        values = torch.cat([*(r.values[own] for r in mine), value[b, own][seen[b, i]]])
        scores = keys @ query[b, h, i] / WIDTH**0.5
        if bias is not None:
            scores[len(scores) - int(seen[b, i].sum()) :] += bias[0, h, i][seen[b, i]]
        out[b, h, i] = scores.softmax(dim=0) @ values
    return out.transpose(1, 2)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["causal", "open", "padding", "cached", "biased"])
@pytest.mark.parametrize("taken", [[None], [(0, 2)], [None, (1,)], [(0,), (2, 0)]], ids=str)
def test_equals_plain_attention_with_the_rows_in_front(implementation: str, kind: str, taken: list[Any]) -> None:
    front = [rows(p + 2, each) for p, each in enumerate(taken)]
    queries = 1 if kind == "cached" else KEYS
    query = torch.randn(BATCH, HEADS, queries, WIDTH, dtype=torch.float64)
    key, value = (torch.randn(BATCH, KV_HEADS, KEYS, WIDTH, dtype=torch.float64) for _ in "kv")
    seen = torch.ones(BATCH, queries, KEYS, dtype=torch.bool)
    if kind in ("causal", "padding"):
        seen = seen.tril()
    mask = None
    if kind == "padding":
        seen[1, :, :2] = False
        seen[1, :2] = True  # a query that sees nothing would be a mean over nothing
        mask = seen[:, None] if implementation == "sdpa" else torch.where(seen, 0.0, -torch.inf).double()[:, None]
    elif kind == "causal" and implementation == "eager":  # a model makes this mask itself
        mask = torch.where(seen, 0.0, -torch.inf).double()[:1, None]
    options = {}
    if kind == "biased":
        options["position_bias"] = torch.randn(1, HEADS, queries, KEYS, dtype=torch.float64)

    module = Attention(front, is_causal=kind in ("causal", "cached"))
    out, weights = attention(
        module, query, key, value, mask, implementation=implementation, scaling=WIDTH**-0.5, dropout=0.0, **options
    )
    assert_close(out, plain(query, key, value, seen, front, options.get("position_bias")), 1e-12)
    if weights is not None:
        assert weights.shape[-1] == KEYS  # the model sees the weights of its own keys
        assert (weights.sum(dim=-1) < 1).any()


def test_without_rows_it_is_the_bases_own() -> None:
    query, key, value = (torch.randn(BATCH, heads, KEYS, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    module = Attention([], is_causal=True)
    own = transformers.AttentionInterface()["sdpa"](module, query, key, value, None)[0]
    assert torch.equal(attention(module, query, key, value, None, implementation="sdpa")[0], own)


def test_rows_come_down_to_the_precision_of_the_activations() -> None:
    query, key, value = (torch.randn(1, heads, 3, WIDTH).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS))
    module = Attention([rows(2)], is_causal=True)
    assert attention(module, query, key, value, None, implementation="sdpa")[0].dtype == torch.bfloat16


def test_lengths_of_packed_texts_are_refused() -> None:
    query, key, value = (torch.randn(1, heads, 3, WIDTH) for heads in (HEADS, KV_HEADS, KV_HEADS))
    with pytest.raises(AttachError, match="expected a mask for packed texts"):
        attention(
            Attention([rows(2)], is_causal=True),
            query,
            key,
            value,
            None,
            implementation="sdpa",
            cu_seq_lens_k=torch.tensor([0, 3]),
        )


MAKE: dict[str, Any] = {
    "a": lambda: dt.PrefixTuning(tokens=2),
    "b": lambda: dt.PromptTuning(tokens=2),
    "c": lambda: dt.PrefixTuning(tokens=3, hidden=4),
}


@families("llama", "gpt2", "bert", "t5")
@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
def test_whatever_is_taken_off_first_the_base_comes_back(family: Any, order: tuple[str, ...]) -> None:
    model = family.model()
    before, base = fingerprint(model), family.forward(model)
    for name, make in MAKE.items():
        stir(dt.attach(model, make(), name=name))
    for name in order:
        acting = family.forward(model)
        assert not torch.allclose(acting, base, atol=1e-4)
        with dt.disabled(model):
            assert_close(family.forward(model), base)
        dt.detach(model, name)
        assert not torch.equal(family.forward(model), acting)
    assert torch.equal(family.forward(model), base)
    assert fingerprint(model) == before
    assert not any(HOOK in vars(module) for module in model.modules())


@families("llama", "bert")
@pytest.mark.parametrize("name", "ab")
def test_a_failed_call_leaves_nothing_behind(family: Any, name: str) -> None:
    model = family.model()
    before, base = fingerprint(model), family.forward(model)
    delta = stir(dt.attach(model, MAKE[name]()))
    expected = family.forward(model)
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, 2), VOCABULARY + 5))
    last = model.get_submodule("model.layers.1.mlp" if family.name == "llama" else "bert.encoder.layer.1.intermediate")
    handle = last.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        family.forward(model)
    handle.remove()
    assert not any(hook.calls for hook in model.deltatune.hooks.values())
    assert torch.equal(family.forward(model), expected)
    dt.detach(model, delta)
    assert torch.equal(family.forward(model), base)
    assert fingerprint(model) == before


@families("llama", "bert", "t5")
@pytest.mark.parametrize("name", "ab")
def test_an_implementation_chosen_later_is_followed_and_kept(family: Any, name: str) -> None:
    model = family.model()
    base = family.forward(model)
    stir(dt.attach(model, MAKE[name]()))
    expected = family.forward(model)
    model.set_attn_implementation("eager")
    assert_close(family.forward(model), expected)
    with dt.disabled(model):
        assert_close(family.forward(model), base)
    dt.detach(model)
    assert model.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    assert torch.equal(family.forward(model), base)


def test_an_implementation_chosen_right_before_detaching_is_kept() -> None:
    model = FAMILIES["llama"].model()
    dt.attach(model, MAKE["a"]())
    model.set_attn_implementation("eager")
    dt.detach(model)
    assert model.config._attn_implementation == "eager"


def test_two_models_that_share_a_config_do_not_share_prefixes() -> None:
    family = FAMILIES["llama"]
    one = family.model()
    two = type(one)(one.config).eval()
    two.load_state_dict(one.state_dict())
    assert two.config is one.config
    base = family.forward(one)
    stir(dt.attach(one, MAKE["a"](), name="a"))
    acting = family.forward(one)
    assert torch.equal(family.forward(two), base)
    stir(dt.attach(two, MAKE["a"](), name="b"), seed=1)
    other = family.forward(two)
    dt.detach(two)
    assert torch.equal(family.forward(one), acting)
    assert not torch.allclose(other, acting)
    dt.detach(one)
    assert one.config._attn_implementation == "sdpa"


@families("llama", "t5", "bert")
def test_save_pretrained_names_the_bases_own_attention(family: Any, tmp_path: Path) -> None:
    model = family.model()
    base = family.forward(model)
    for name, make in MAKE.items():
        stir(dt.attach(model, make(), name=name))
    expected = family.forward(model)
    model.save_pretrained(tmp_path)
    assert "deltatune" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config._attn_implementation == "sdpa"
    assert_close(family.forward(again), base)
    assert torch.equal(family.forward(model), expected)


def test_a_model_with_attention_of_its_own_is_refused_untouched() -> None:
    model = transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=32, n_layer=1, n_head=4, vocab_size=9))
    before = fingerprint(model)
    with pytest.raises(SiteError, match="BloomAttention: expected attention of transformers' interface"):
        dt.attach(model, dt.PrefixTuning(tokens=2))
    assert fingerprint(model) == before


def test_a_model_that_chooses_none_by_name_is_refused() -> None:
    with pytest.raises(AttachError, match="Linear: expected attention of transformers' interface, found none"):
        listen(nn.Linear(2, 2))
    unlisten(nn.Linear(2, 2))


def test_an_unknown_implementation_is_refused() -> None:
    model = FAMILIES["llama"].model()
    model.config._attn_implementation_internal = "mine"
    with pytest.raises(AttachError, match="attention 'mine': expected one of transformers' interface"):
        dt.attach(model, dt.PrefixTuning(tokens=2))
    assert model.config._attn_implementation == "mine"
    assert not dt.deltas(model)


def test_heads_are_those_of_the_keys() -> None:
    phi = transformers.Phi3ForCausalLM(transformers.Phi3Config(**DECODER))
    expected = {"llama": (2, 8), "qwen3": (2, 8), "gpt2": (4, 8), "t5": (4, 8), "bert": (4, 8), "vit": (4, 8)}
    models = {name: FAMILIES[name].model() for name in expected} | {"phi3": phi}
    expected["phi3"] = (2, 8)  # queries, keys and values in one matrix
    for name, model in models.items():
        parts = {s: p for s, p in dt.attach(model, dt.PrefixTuning(tokens=2)).items() if p.acts_in_attention}
        assert {tuple(heads_of(model.get_submodule(site))) for site in parts} == {expected[name]}, name
        numbers = {p.numel() for part in parts.values() for p in part.parameters()}
        assert numbers == {2 * expected[name][0] * expected[name][1]}


def test_a_layer_that_another_delta_trains_whole_copies_nothing_of_the_model() -> None:
    model = FAMILIES["llama"].model()
    dt.attach(model, dt.PrefixTuning(tokens=2), name="a")
    whole = dt.attach(model, dt.LoRA(targets=("query",), layers=0, train_also=("model.layers.1",)), name="b")
    assert not any(HOOK in vars(module) for module in whole.modules())


def test_head_mask_free_models_keep_their_attentions_in_shape() -> None:
    model = transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=VOCABULARY)).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(3, VOCABULARY, (2, 5))
    for method in (dt.PrefixTuning(tokens=2), dt.PromptTuning(tokens=2)):
        dt.attach(model, method)
        output = model(ids, output_attentions=True, output_hidden_states=True)
        assert {tuple(w.shape) for w in output.attentions} == {(2, 4, 5, 5)}
        assert {tuple(h.shape) for h in output.hidden_states} == {(2, 5, 32)}
        dt.detach(model)
