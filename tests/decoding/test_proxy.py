"""Proxy-tuning is its equation, whatever way `generate` goes: a plain loop without caches is the reference."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TextStreamer

import deltatune as dt
from deltatune.decoding import sides
from deltatune.decoding.sides import Caches
from deltatune.errors import AttachError, ConfigError
from deltatune.io.bases import Base
from deltatune.packing.prefill import why_no_prefill
from deltatune.train.complete import complete
from tests.cli import tiny
from tests.models.families import FAMILIES
from tests.models.tools import stir

NEW = 6


def model_of(name: str, shift: float = 0.0) -> Any:
    model = FAMILIES[name].model().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(shift * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model


def with_delta(model: Any, method: Any = None, name: str = "sql", seed: int = 0) -> Any:
    stir(dt.attach(model, method or dt.LoRA(r=4, targets=("query", "value")), name=name), seed=seed, size=0.5)
    return model.double()


def trio() -> tuple[Any, Any, Any]:
    """Three models of one vocabulary: of three architectures."""
    return model_of("llama"), model_of("qwen2"), model_of("gpt2")


def batch() -> dict[str, Tensor]:
    """Two prompts, the first padded on the left."""
    ids = torch.randint(3, 99, (2, 6), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    ids[0, :2], mask[0, :2] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def written(model: Any, inputs: dict[str, Tensor] | None = None, **settings: Any) -> Tensor:
    torch.manual_seed(7)
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0, **settings}
    given = batch() if inputs is None else inputs
    return model.generate(**given, **settings)[:, given["input_ids"].shape[1] :]


@torch.no_grad()
def plain(models: tuple[Any, Any, Any], row: list[int], alpha: float = 1.0) -> Tensor:
    """The combined logits of the last column, from the models themselves."""
    base, expert, anti = (each(input_ids=torch.tensor([row])).logits[0, -1] for each in models)
    return base + alpha * (expert - anti)


def rows_of(inputs: dict[str, Tensor]) -> Iterator[list[int]]:
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        yield ids[mask == 1].tolist()


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 0.7},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "chunks": {"prefill_chunk_size": 4},
    "penalty": {"repetition_penalty": 1.5},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


# Exactness.


@every_way
def test_alpha_0_is_the_base(way: dict[str, Any]) -> None:
    base, expert, anti = trio()
    assert torch.equal(written(dt.ProxyTuned(base, expert, anti, alpha=0), **way), written(base, **way))


@every_way
def test_with_the_base_as_the_anti_expert_it_is_the_expert(way: dict[str, Any]) -> None:
    base, expert, _ = trio()
    assert torch.equal(written(dt.ProxyTuned(base, expert, base), **way), written(expert, **way))


@every_way
def test_experts_that_agree_leave_the_base(way: dict[str, Any]) -> None:
    base, expert, _ = trio()
    assert torch.equal(written(dt.ProxyTuned(base, expert, expert), **way), written(base, **way))


def test_logits_are_those_of_the_equation() -> None:
    models = trio()
    proxy, inputs = dt.ProxyTuned(*models, alpha=0.7), batch()
    with torch.no_grad():
        logits = proxy(**{name: tensor[1:] for name, tensor in inputs.items()}).logits
    assert logits.dtype == torch.float64
    row = list(rows_of(inputs))[1]
    for end in range(1, len(row) + 1):
        torch.testing.assert_close(logits[0, end - 1], plain(models, row[:end], 0.7), rtol=1e-10, atol=1e-10)


def test_a_padded_batch_writes_what_a_plain_loop_without_caches_does() -> None:
    models = trio()
    found = written(dt.ProxyTuned(*models)).tolist()
    for row, tokens in zip(rows_of(batch()), found, strict=True):
        text = list(row)
        for _ in range(NEW):
            scores = plain(models, text)
            scores[2] = -torch.inf  # the end, which min_new_tokens keeps away
            text.append(int(scores.argmax()))
        assert tokens == text[len(row) :]


def test_beams_are_those_of_a_plain_loop() -> None:
    models, width = trio(), 3
    found = written(dt.ProxyTuned(*models), num_beams=width).tolist()
    for row, tokens in zip(rows_of(batch()), found, strict=True):
        beams = [(0.0, list(row))]
        for _ in range(NEW):
            grown = []
            for total, text in beams:
                scores = plain(models, text).float().log_softmax(dim=-1)
                scores[2] = -torch.inf
                best = scores.topk(2 * width)
                grown += [(total + float(s), [*text, int(t)]) for s, t in zip(*best, strict=True)]
            beams = sorted(grown, key=lambda each: -each[0])[:width]
        assert tokens == beams[0][1][len(row) :]


# One set of weights, with a delta on and off.


METHODS = {
    "lora": lambda: dt.LoRA(r=4, targets=("query", "value")),
    "prefix": lambda: dt.PrefixTuning(tokens=3, std=1.0),
    "prompt": lambda: dt.PromptTuning(tokens=3),
    "child": lambda: dt.ChildTuning(mode="random", p=0.2),
}


@pytest.mark.parametrize("way", [WAYS["greedy"], WAYS["beams"], WAYS["several"]], ids=["greedy", "beams", "several"])
@pytest.mark.parametrize("name", METHODS)
def test_a_delta_on_and_off_is_two_models(name: str, way: dict[str, Any]) -> None:
    base, small = model_of("llama"), model_of("qwen2")
    tuned = with_delta(copy.deepcopy(small), METHODS[name]())
    expected = written(dt.ProxyTuned(base, tuned, small), **way)
    assert torch.equal(written(dt.ProxyTuned(base, tuned), **way), expected)


def test_it_runs_as_one_batch_where_it_can_be_routed() -> None:
    base, small = model_of("llama"), model_of("qwen2")
    proxy = dt.ProxyTuned(base, with_delta(small))
    seen: list[int] = []
    small.model.layers[0].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    together = written(proxy)
    assert seen == [4] * NEW
    sides._can_route, former = (lambda model: False), sides._can_route
    try:
        assert torch.equal(written(proxy), together)
    finally:
        sides._can_route = former
    assert seen == [4] * NEW + [2] * 2 * NEW
    assert all(delta.enabled for delta in dt.deltas(small).values())


def test_only_the_named_delta_makes_the_expert() -> None:
    base, small = model_of("llama"), with_delta(model_of("qwen2"), name="chat", seed=1)
    without = copy.deepcopy(small)
    expected = written(dt.ProxyTuned(base, with_delta(small), without))
    assert torch.equal(written(dt.ProxyTuned(base, small, delta="sql")), expected)
    assert not torch.equal(written(dt.ProxyTuned(base, small)), expected)


def test_a_delta_of_the_base_itself() -> None:
    base = model_of("llama")
    tuned = with_delta(copy.deepcopy(base))
    calls: list[int] = []
    tuned.model.layers[0].register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    for alpha, same in {0.0: base, 1.0: copy.deepcopy(tuned)}.items():
        assert torch.equal(written(dt.ProxyTuned(tuned, tuned, alpha=alpha)), written(same))
    sharp = written(dt.ProxyTuned(base, tuned, base, alpha=2.0))
    calls.clear()
    assert torch.equal(written(dt.ProxyTuned(tuned, tuned, alpha=2.0)), sharp)
    assert len(calls) == NEW  # base and anti-expert are one


def test_the_base_keeps_the_deltas_that_are_on_it() -> None:
    base, expert, anti = trio()
    with_delta(base)
    assert torch.equal(written(dt.ProxyTuned(base, expert, anti, alpha=0)), written(base))


def test_on_a_base_in_4_bits(tmp_path: Path) -> None:
    folder = tiny.save_llama(tmp_path, hidden_size=64, intermediate_size=64)
    base = dt.load_base(folder, quant="nf4", device="cpu").model
    one = {"input_ids": torch.arange(10, 16)[None]}
    assert torch.equal(written(dt.ProxyTuned(base, _tiny(1), _tiny(2), alpha=0), one), written(base, one))
    stir(dt.attach(base, dt.LoRA(r=4)), size=0.5)
    assert torch.equal(written(dt.ProxyTuned(base, base), one), written(base, one))


# Around it.


def test_the_experts_may_differ_in_their_prompt() -> None:
    models = trio()
    own = {
        "expert_input_ids": torch.tensor([[0, 0, 0, 40, 41], [50, 51, 52, 53, 54]]),
        "expert_attention_mask": torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]),
    }
    proxy = dt.ProxyTuned(*models)
    found = written(proxy, **own)
    assert torch.equal(found, written(proxy, **own, use_cache=False))
    assert not torch.equal(found, written(proxy))
    starts = zip(rows_of(batch()), ([40, 41], [50, 51, 52, 53, 54]), found.tolist(), strict=True)
    for row, theirs, tokens in starts:
        text: list[int] = []
        for _ in range(NEW):
            with torch.no_grad():
                base, expert, anti = (
                    model(input_ids=torch.tensor([[*before, *text]])).logits[0, -1]
                    for model, before in zip(models, (row, theirs, row), strict=True)
                )
            scores = base + expert - anti
            scores[2] = -torch.inf
            text.append(int(scores.argmax()))
        assert tokens == text


@pytest.mark.parametrize("beams", [1, 3])
def test_a_routed_expert_with_its_own_prompt(beams: int) -> None:
    base, small = model_of("llama"), model_of("qwen2")
    tuned = with_delta(copy.deepcopy(small))
    own = {"expert_input_ids": torch.tensor([[40, 41], [50, 51]]), "num_beams": beams}
    assert torch.equal(written(dt.ProxyTuned(base, tuned), **own), written(dt.ProxyTuned(base, tuned, small), **own))


@pytest.mark.parametrize("cached", [True, False])
def test_alpha_may_change_from_token_to_token(cached: bool) -> None:
    models, schedule = trio(), [0.0, 2.0, 0.5]
    settings = {"use_cache": cached}
    found = written(dt.ProxyTuned(*models, alpha=schedule), **settings)
    function = dt.ProxyTuned(*models, alpha=lambda step: schedule[min(step, 2)])
    assert torch.equal(found, written(function, **settings))
    row = list(rows_of(batch()))[1]
    for step in range(NEW):
        scores = plain(models, row, schedule[min(step, 2)])
        scores[2] = -torch.inf
        row.append(int(scores.argmax()))
    assert found[1].tolist() == row[-NEW:]
    with torch.no_grad():
        whole = function(input_ids=torch.tensor([row]), step=NEW, logits_to_keep=NEW + 1).logits[0, :-1]
    whole[:, 2] = -torch.inf
    assert whole.argmax(dim=-1).tolist() == row[-NEW:]


def test_half_precision_is_combined_in_float32() -> None:
    models = tuple(model.to(torch.bfloat16) for model in trio())
    proxy, ids = dt.ProxyTuned(*models), batch()["input_ids"]
    with torch.no_grad():
        base, expert, anti = (model(input_ids=ids).logits.float() for model in models)
        found = proxy(input_ids=ids).logits
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, base + expert - anti)
    assert written(proxy).shape == (2, NEW)


def test_a_cache_can_be_gone_on_from_and_rolled_back() -> None:
    models = trio()
    proxy, ids = dt.ProxyTuned(*models), torch.randint(3, 99, (2, 9))
    with torch.no_grad():
        whole = proxy(input_ids=ids).logits
        first = proxy(input_ids=ids[:, :7], use_cache=True)
        cache: Any = first.past_key_values
        assert isinstance(cache, Caches)
        assert cache.get_seq_length() == 7
        cache.crop(-3)
        assert [part.get_seq_length() for part in cache.parts] == [4, 4, 4]
        rest = proxy(input_ids=ids[:, 4:], past_key_values=cache).logits
        torch.testing.assert_close(rest, whole[:, 4:])


@pytest.mark.parametrize("rows", [[1], [1, 1, 0], [0, 0, 1, 1]])
def test_the_rows_of_a_cache_can_be_chosen(rows: list[int]) -> None:
    base, small = model_of("llama"), with_delta(model_of("qwen2"))
    proxy, ids = dt.ProxyTuned(base, small), torch.randint(3, 99, (2, 9))  # the small model's cache has four rows
    with torch.no_grad():
        whole = proxy(input_ids=ids[rows]).logits
        cache: Any = proxy(input_ids=ids[:, :7], use_cache=True).past_key_values
        assert cache.copies == [1, 2]
        if rows == [0, 0, 1, 1]:
            cache.batch_repeat_interleave(2)
        else:
            cache.batch_select_indices(torch.tensor(rows))
        rest = proxy(input_ids=ids[rows, 7:], past_key_values=cache).logits
    torch.testing.assert_close(rest, whole[:, 7:])


def test_an_assistant_may_draft() -> None:
    models = trio()
    one = {name: tensor[1:] for name, tensor in batch().items()}
    proxy = dt.ProxyTuned(*models, alpha=[0.5, 1.5])
    assert torch.equal(written(proxy, one, assistant_model=models[0]), written(proxy, one))


def test_stop_strings_and_streams() -> None:
    tokenizer = tiny.tokenizer()
    base, expert, anti = (copy.deepcopy(_tiny(seed)) for seed in range(3))
    proxy = dt.ProxyTuned(base, expert, anti)
    inputs = {
        name: tensor for name, tensor in tokenizer(["red blue"], return_tensors="pt").items() if "type" not in name
    }
    tokens = written(proxy, inputs)[0]
    shown: list[str] = []

    class Catch(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            shown.append(text)

    written(proxy, inputs, streamer=Catch(tokenizer, skip_prompt=True))
    assert "".join(shown) == tokenizer.decode(tokens)
    stop = tokenizer.decode(tokens[1:2])
    cut = written(proxy, inputs, stop_strings=[stop], tokenizer=tokenizer, min_new_tokens=1)
    assert len(cut[0]) <= NEW
    assert stop in tokenizer.decode(cut[0])


def _tiny(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(**tiny.SIZES, vocab_size=len(tiny.tokenizer()), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    return model.eval()


def test_prompts_that_begin_alike_are_written_as_any() -> None:
    base = Base(dt.ProxyTuned(*(_tiny(seed) for seed in range(3))), tiny.tokenizer(), "proxy", "causal-lm")
    prompts = [[*range(10, 30), *range(40, 50), number] for number in (60, 61, 62, 63)]
    assert why_no_prefill(base.model) is not None
    together = list(complete(base, prompts, max_new_tokens=4))
    assert together == [text for prompt in prompts for text in complete(base, [prompt], max_new_tokens=4)]


# What each token became.


def test_the_explanation_is_that_of_the_logits() -> None:
    models = trio()
    schedule = [1.5, 0.5]
    proxy = dt.ProxyTuned(*models, alpha=schedule)
    row = list(rows_of(batch()))[1]
    one = {name: tensor[1:] for name, tensor in batch().items()}
    tokens = written(proxy, one)[0].tolist()
    found = proxy.explain(torch.tensor([*row, *tokens]), len(row))
    assert [each.token for each in found] == tokens
    for step, each in enumerate(found):
        alpha = schedule[min(step, 1)]
        after = plain(models, [*row, *tokens[:step]], alpha).log_softmax(dim=-1)
        before = plain(models, [*row, *tokens[:step]], 0).log_softmax(dim=-1)
        assert each.alpha == alpha
        assert each.base_choice == int(before.argmax())
        assert each.rank == int((after > after[each.token]).sum()) + 1
        assert each.base_rank == int((before > before[each.token]).sum()) + 1
        assert each.probability == pytest.approx(float(after[each.token].exp()))
        assert each.base_probability == pytest.approx(float(before[each.token].exp()))
        assert each.divergence == pytest.approx(float((after.exp() * (after - before)).sum()))
    assert found.changed == sum(a.token != a.base_choice for a in found) / NEW
    assert len(found.__rich__().rows) == NEW


def test_without_steering_nothing_is_changed() -> None:
    proxy = dt.ProxyTuned(*trio(), alpha=0)
    one = {name: tensor[1:] for name, tensor in batch().items()}
    tokens = written(proxy, one)
    found = proxy.explain(torch.cat([one["input_ids"], tokens], dim=1), 6)
    assert all(each.divergence == 0 and each.rank == each.base_rank for each in found)


# What is refused.


def test_what_does_not_fit_is_refused() -> None:
    base, expert, anti = trio()
    for model in (FAMILIES["t5"].model(), FAMILIES["bert"].model()):
        with pytest.raises(ConfigError, match="from left to right"):
            dt.ProxyTuned(base, model, anti)
    with pytest.raises(AttachError, match="found none"):
        dt.ProxyTuned(base, expert)
    with pytest.raises(AttachError, match="'other'"):
        dt.ProxyTuned(base, with_delta(expert), delta="other")
    with pytest.raises(ConfigError, match="anti-expert"):
        dt.ProxyTuned(base, expert, anti, delta="sql")
    for alpha in (float("nan"), [], "high", [1.0, float("inf")]):
        with pytest.raises(ConfigError, match="alpha"):
            dt.ProxyTuned(base, expert, anti, alpha=alpha)
    proxy = dt.ProxyTuned(base, expert, anti)
    with pytest.raises(ConfigError, match="cache_implementation"):
        written(proxy, cache_implementation="static")
    with pytest.raises(ConfigError, match="prefill_chunk_size"):
        written(proxy, prefill_chunk_size=2, expert_input_ids=batch()["input_ids"])
    with pytest.raises(ConfigError, match="past_key_values"):
        proxy(**batch(), past_key_values=base(**batch(), use_cache=True).past_key_values)
    with pytest.raises(ConfigError, match="save"):
        proxy.save_pretrained("nowhere")


def test_a_failure_leaves_the_deltas_on() -> None:
    base, small = model_of("llama"), with_delta(model_of("qwen2"), METHODS["child"]())
    proxy = dt.ProxyTuned(base, small)
    small.model.layers[1].register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="broken"):
        written(proxy)
    assert all(delta.enabled for delta in dt.deltas(small).values())


def _fail(module: Any, args: Any) -> None:
    raise RuntimeError("broken")
