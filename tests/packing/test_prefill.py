"""Writing that begins from a trie of prompts goes on as it does without."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from torch import Tensor

import deltatune as dt
from deltatune.attachment import attention
from deltatune.errors import DataError
from deltatune.packing.attend import attend_behind
from deltatune.packing.prefill import SAVED, begun, prefill, saved_tokens, why_no_prefill
from deltatune.train.collate import Collator
from deltatune.train.complete import complete
from tests.cli import tiny
from tests.models.families import DECODER, FAMILIES, VOCABULARY, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_method, families, fingerprint, stir
from tests.packing.test_scoring import counting
from tests.packing.texts import TEXTS

causal = families("llama", "qwen2", "qwen3", "gpt2")

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}

Ids = list[int]


def prompts() -> list[Ids]:
    """Three that share a beginning, two of them more of it, one that is its beginning, one alone and one token."""
    generator = torch.Generator().manual_seed(3)

    def draw(length: int) -> Ids:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()  # type: ignore[no-any-return]

    common = draw(8)
    longer = common + draw(5)
    return [common + draw(4), longer + draw(3), longer + draw(6), common, draw(7), draw(1)]


def padded(texts: list[Ids]) -> dict[str, Tensor]:
    return Collator(0, "left")([{"input_ids": text} for text in texts])


def alike() -> list[Ids]:
    """Those that share a beginning; it is the whole of the last one but for a token."""
    first, second, third, common, *_ = prompts()
    return [first, second, third, [*common, 7]]


def written(model: Any, texts: list[Ids], shared: bool, **how: Any) -> Tensor:
    """The new tokens."""
    torch.manual_seed(5)
    copies = max(how.get("num_beams", 1), how.get("num_return_sequences", 1))
    inputs: Any = begun(model, texts, copies=copies, least=1, ahead=1) if shared else nullcontext(padded(texts))
    with inputs as given:
        found: Tensor = model.generate(**given, max_new_tokens=6, min_new_tokens=6, **how)
    return found[:, -6:]


@torch.no_grad()
def assert_same_cache(model: Any, texts: list[Ids], least: int) -> None:
    """The keys and values of every prompt are those of the model's own cache, run on that prompt alone."""
    found = prefill(model, texts, least=least)
    width = max(map(len, texts)) - 1
    for row, text in enumerate(texts):
        if len(text) == 1:
            continue
        own = model(input_ids=torch.tensor([text[:-1]]), use_cache=True).past_key_values
        for ours, theirs in zip(found.cache.layers, own.layers, strict=True):
            assert ours.keys.shape[2] == width
            torch.testing.assert_close(ours.keys[row, :, width + 1 - len(text) :], theirs.keys[0], rtol=0, atol=1e-10)
            torch.testing.assert_close(
                ours.values[row, :, width + 1 - len(text) :], theirs.values[0], rtol=0, atol=1e-10
            )


@causal
@every_method
def test_each_method_writes_the_same(row: Row, family: Family) -> None:
    model = family.model().double()
    attach(model, row, family, seed=1)
    assert why_no_prefill(model) is None
    assert_same_cache(model, prompts(), least=4)
    for texts in (prompts(), alike(), alike()[:1]):
        assert torch.equal(written(model, texts, True), written(model, texts, False))


@causal
@pytest.mark.parametrize("texts", [prompts(), alike(), alike()[:1]], ids=["some", "all", "one"])
@pytest.mark.parametrize("how", WAYS.values(), ids=list(WAYS))
def test_each_way_of_writing(family: Family, how: dict[str, Any], texts: list[Ids]) -> None:
    model = family.model().double()
    for number, name in enumerate(("lora", "prefix", "prompt")):
        stir(attach(model, ROWS[name], family, name=name), number)
    plain = written(model, texts, False, **how)
    assert torch.equal(written(model, texts, True, **how), plain)
    with dt.disabled(model):
        base = written(model, texts, True, **how)
        assert torch.equal(base, written(model, texts, False, **how))
    assert not torch.equal(base, plain)  # the deltas have to matter for this to say anything


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations(implementation: str) -> None:
    family = FAMILIES["llama"]
    model = family.model().double()
    model.set_attn_implementation(implementation)
    attach(model, ROWS["prefix"], family, seed=1)
    for texts in (prompts(), alike()):
        assert torch.equal(written(model, texts, True), written(model, texts, False))


@causal
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_scores_are_those_of_the_plain_run(
    family: Family, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    monkeypatch.setattr(attention, "attend_behind", lambda *args: steps.append(1) or attend_behind(*args))
    model = family.model().double()
    model.set_attn_implementation(implementation)
    attach(model, ROWS["prefix"], family, seed=1)
    how: dict[str, Any] = {"output_scores": True, "return_dict_in_generate": True, "max_new_tokens": 5}
    plain = model.generate(**padded(alike()), **how)
    with begun(model, alike(), least=1, ahead=1) as inputs:
        found = model.generate(**inputs, **how)
    for ours, theirs in zip(found.scores, plain.scores, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # generation hands scores on in float32
    layers = len(found.past_key_values.layers)
    assert len(steps) == 2 * 4 * layers + layers  # the plain run has the prefix in front too, but for its first pass


def test_what_all_begin_with_is_held_once() -> None:
    model, texts = FAMILIES["llama"].model(), alike()
    found = prefill(model, texts, ahead=8)
    for layer, rows in zip(found.cache.layers, found.front.values(), strict=True):
        assert rows.keys.shape[1] == 8
        assert layer.keys.shape[2] == max(map(len, texts)) - 1 - 8
        assert layer.get_seq_length() == max(map(len, texts)) - 1
    with begun(model, texts, ahead=9) as inputs:  # they have only 8 in common
        assert inputs["past_key_values"].layers[0].keys.shape[2] == max(map(len, texts)) - 1


@settings(max_examples=30, deadline=None)
@given(TEXTS.filter(lambda texts: max(map(len, texts)) > 1))
def test_any_trie(texts: list[Ids]) -> None:
    assert_same_cache(FAMILIES["qwen3"].model().double(), texts, least=1)


def test_what_is_shared_runs_once() -> None:
    model, texts = FAMILIES["llama"].model(), prompts()
    with counting(model.model) as seen:
        prefill(model, texts, least=1)
    rows = {tuple(text[: end + 1]) for text in texts for end in range(len(text) - 1)}
    assert seen == [len(rows)]


def test_how_much_prompts_share() -> None:
    common = list(range(20))
    assert saved_tokens([[*common, 30, 31], [*common, 32], [*common, 33, 34]]) == 40
    assert saved_tokens([common, common]) == 19  # the last token of each runs by itself
    assert saved_tokens([[1, 2, 3], [1, 2, 4]]) == 0
    assert saved_tokens([[1]]) == 0
    assert saved_tokens([common], copies=3) == 2 * 19


def test_the_model_is_as_it_was_afterwards() -> None:
    model = FAMILIES["llama"].model()
    dt.attach(model, dt.LoRA(r=2))
    before = fingerprint(model)
    assert why_no_prefill(model) is None
    for texts in (prompts(), alike()):
        with begun(model, texts, least=1, ahead=1):
            pass
        assert fingerprint(model) == before


def test_prompts_of_one_token_have_nothing_to_run() -> None:
    with pytest.raises(DataError, match="expected a prompt of two tokens or more"):
        prefill(FAMILIES["llama"].model(), [[5], [6]])


@families("bert", "t5")
def test_models_that_do_not_take_packed_batches(family: Family) -> None:
    assert why_no_prefill(family.model())


def test_other_caches_and_routes_say_so() -> None:
    mistral = transformers.MistralForCausalLM(transformers.MistralConfig(**DECODER, sliding_window=4))
    assert "cache of another kind" in (why_no_prefill(mistral) or "")
    model = FAMILIES["llama"].model()
    dt.attach(model, dt.LoRA(r=2))
    with dt.routed(model, ["default", None]):
        assert why_no_prefill(model) == "prompts take different deltas"
    assert why_no_prefill(model) is None


def test_a_model_that_caches_something_else_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = transformers.cache_utils.DynamicLayer.update

    def halved(self: Any, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        whole = kept(self, keys, values, *args, **kwargs)
        self.keys = self.keys / 2
        return whole

    monkeypatch.setattr(transformers.cache_utils.DynamicLayer, "update", halved)
    assert "caches something else" in (why_no_prefill(FAMILIES["llama"].model()) or "")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = dt.load_base(tiny.save_llama(tmp_path_factory.mktemp("bases") / "llama"))
    stir(dt.attach(made.model.double(), dt.LoRA(r=4)))
    return made


def schema(questions: int = 4) -> list[Ids]:
    """Questions under one schema of 30 tokens."""
    ids = torch.randint(10, 260, (30 + 5 * questions,), generator=torch.Generator().manual_seed(6)).tolist()
    return [ids[:30] + ids[30 + 5 * at : 30 + 5 * at + 2 + at] for at in range(questions)]


def rows_of(base: Any, texts: list[Ids], **settings: Any) -> tuple[list[str], list[int]]:
    """What is written, and how many tokens each pass runs over, without those that only try the model."""
    torch.manual_seed(0)
    with counting(base.model.model) as seen:
        list(complete(base, texts, max_new_tokens=2, **settings))
        seen.clear()
        torch.manual_seed(0)
        made = list(complete(base, texts, max_new_tokens=5, min_new_tokens=5, **settings))
    return made, seen


@pytest.mark.parametrize("how", [{}, {"do_sample": True, "temperature": 2.0}, {"num_beams": 2}], ids=str)
def test_completions_begin_from_what_is_shared(base: Any, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = schema()
    copies, width = how.get("num_beams", 1), max(map(len, texts))
    found, seen = rows_of(base, texts, **how)
    assert seen == [30 + sum(len(text) - 31 for text in texts), *[4 * copies] * 5]
    monkeypatch.setattr("deltatune.train.complete.SAVED", 10**6)
    plain, seen = rows_of(base, texts, **how)
    assert seen == [4 * width * copies, *[4 * copies] * 4]
    assert found == plain


@pytest.mark.parametrize("how", [{"use_cache": False}, {"prompt_lookup_num_tokens": 2}], ids=str)
def test_other_ways_of_writing_begin_as_ever(base: Any, how: dict[str, Any]) -> None:
    texts = schema(4)[: 4 if "use_cache" in how else 1]
    _, seen = rows_of(base, texts, **how)
    assert seen[0] == len(texts) * max(map(len, texts))


def test_little_in_common_does_not_pay(base: Any) -> None:
    texts = schema(3)
    assert saved_tokens(texts) < SAVED
    _, seen = rows_of(base, texts)
    assert seen[0] == 3 * max(map(len, texts))


def test_routed_completions_begin_as_ever(base: Any) -> None:
    texts = schema()
    with dt.routed(base.model, ["default", None, None, "default"]):
        found, seen = rows_of(base, texts)
        assert seen[0] == 4 * max(map(len, texts))
    with dt.disabled(base.model):
        bare = list(complete(base, texts, max_new_tokens=5, min_new_tokens=5))
    assert found[1:3] == bare[1:3]
