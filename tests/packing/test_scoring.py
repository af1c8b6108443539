"""Scores of answers are those of a plain loop over prompts and answers, whatever they share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.stacks import stacks_of
from deltatune.errors import AttachError, DataError, SiteError
from deltatune.packing import padded
from deltatune.packing.path import why_not
from deltatune.packing.scoring import AnswerScore, batches, pack_pairs
from tests.models.families import DECODER, FAMILIES, VOCABULARY, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, every_method, families, fingerprint, stir
from tests.packing.texts import TEXTS, TOKEN

writers = families("llama", "qwen2", "qwen3", "gpt2", "t5")

Ids = list[int]


def questions() -> tuple[list[Ids], list[list[Ids]]]:
    """Three prompts with a template and one that is its beginning; answers of 1 to 4 tokens, some of them alike."""
    generator = torch.Generator().manual_seed(4)

    def draw(length: int) -> Ids:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()  # type: ignore[no-any-return]

    template, start = draw(9), draw(2)
    candidates = [[*start, 5], [*start, 6, 7], start, draw(1), draw(4)]
    prompts = [template + draw(3), template + draw(5), template[:4], template + draw(3)]
    return prompts, [candidates, candidates[:2], candidates, candidates[3:]]


def one_by_one(model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]]) -> list[list[float]]:
    return [[alone(model, prompt, answer) for answer in each] for prompt, each in zip(prompts, answers, strict=True)]


@torch.no_grad()
def alone(model: Any, prompt: Ids, answer: Ids) -> float:
    if model.config.is_encoder_decoder:
        start = model.config.decoder_start_token_id
        logits = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *answer[:-1]]])
        ).logits[0]
    else:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    picked: Tensor = logits.log_softmax(dim=-1).gather(1, torch.tensor(answer)[:, None])
    return float(picked.double().sum())


def assert_scores(
    found: list[list[AnswerScore]], wanted: list[list[float]], answers: Sequence[Sequence[Ids]], near: float = 1e-10
) -> None:
    assert [[score.tokens for score in each] for each in found] == [[len(a) for a in each] for each in answers]
    for ours, theirs in zip(found, wanted, strict=True):
        assert [score.log_probability for score in ours] == pytest.approx(theirs, rel=near, abs=near)


@contextlib.contextmanager
def counting(stack: nn.Module) -> Iterator[list[int]]:
    """The tokens of each call of a stack, but those of an attached prompt."""
    seen: list[int] = []

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("input_ids") is not None:
            seen.append(kwargs["input_ids"].numel())

    handle = stack.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def distinct_beginnings(texts: Sequence[Sequence[int]]) -> int:
    return len({tuple(text[: end + 1]) for text in texts for end in range(len(text))})


@writers
@every_method
def test_each_method(row: Row, family: Family) -> None:
    model = family.model().double()
    attach(model, row, family, seed=1)
    prompts, answers = questions()
    found = dt.score_answers(model, prompts, answers)
    assert_scores(found, one_by_one(model, prompts, answers), answers)


@writers
def test_single_precision(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    prompts, answers = questions()
    assert_scores(dt.score_answers(model, prompts, answers), one_by_one(model, prompts, answers), answers, 1e-5)


@writers
def test_stacked_deltas(family: Family) -> None:
    model = family.model().double()
    for number, name in enumerate(("lora", "prefix", "pfeiffer", "prompt")):
        stir(attach(model, ROWS[name], family, name=name), number)
    prompts, answers = questions()
    assert_scores(dt.score_answers(model, prompts, answers), one_by_one(model, prompts, answers), answers)


@writers
@pytest.mark.parametrize("max_tokens", [1, 14, 40])
def test_the_budget_changes_nothing(family: Family, max_tokens: int) -> None:
    model = family.model().double()
    prompts, answers = questions()
    found = dt.score_answers(model, prompts, answers, max_tokens=max_tokens)
    assert_scores(found, one_by_one(model, prompts, answers), answers)


@writers
def test_disabled(family: Family) -> None:
    model = family.model().double()
    prompts, answers = questions()
    base = dt.score_answers(model, prompts, answers)
    attach(model, ROWS["prefix"], family, seed=1)
    assert dt.score_answers(model, prompts, answers) != base
    with dt.disabled(model):
        assert_scores(base, one_by_one(model, prompts, answers), answers)
        assert dt.score_answers(model, prompts, answers) == base


@writers
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_routed(family: Family, method: str) -> None:
    model = family.model().double()
    attach(model, ROWS[method], family, "a", seed=1)
    attach(model, ROWS[method], family, "b", seed=2)
    prompts, answers = questions()
    routes = ["a", None, "b", "a"]
    wanted = []
    for prompt, each, route in zip(prompts, answers, routes, strict=True):
        with dt.routed(model, [route]):
            wanted += one_by_one(model, [prompt], [each])
    with dt.routed(model, routes):
        assert_scores(dt.score_answers(model, prompts, answers), wanted, answers)
    with dt.routed(model, ["a", "b"]):  # two prompts a route, as in generation
        halves = dt.score_answers(model, prompts, answers)
    assert_scores(halves[:1] + halves[2:3], [wanted[0], wanted[2]], [answers[0], answers[2]])
    with dt.routed(model, ["a", "b", None]), pytest.raises(AttachError, match="expected 3 prompts or a multiple"):
        dt.score_answers(model, prompts, answers)


def test_a_soft_prompt_of_an_encoder() -> None:
    family = FAMILIES["t5"]
    for side in ("encoder", "decoder", "both"):
        model = family.model().double()
        stir(dt.attach(model, dt.PromptTuning(tokens=3, side=side)))
        prompts, answers = questions()
        assert_scores(dt.score_answers(model, prompts, answers), one_by_one(model, prompts, answers), answers)


def test_a_sliding_window() -> None:
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**DECODER, sliding_window=4)).double()
    prompts, answers = questions()
    assert why_not(model) is None
    assert_scores(dt.score_answers(model, prompts, answers), one_by_one(model, prompts, answers), answers)


@pytest.mark.parametrize("room", [padded.LOGITS, 4 * VOCABULARY * 20])
def test_models_that_can_not_take_packed_batches_get_padded_ones(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(padded, "LOGITS", room)
    model = FAMILIES["llama"].model().double()
    prompts, answers = questions()
    before = dt.score_answers(model, prompts, answers)
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out + out.cumsum(1))
    assert "outside of attention" in (why_not(model) or "")
    found = dt.score_answers(model, prompts, answers)  # what was known of the model holds no more
    assert found != before
    assert_scores(found, one_by_one(model, prompts, answers), answers)


def test_a_model_without_attention() -> None:
    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = transformers.MambaForCausalLM(config).double()
    prompts, answers = questions()
    assert_scores(dt.score_answers(model, prompts, answers), one_by_one(model, prompts, answers), answers)


@pytest.mark.parametrize("max_tokens", [4096, 30])
def test_what_is_shared_runs_once(max_tokens: int) -> None:
    model = FAMILIES["llama"].model()
    prompts, answers = questions()
    texts = [p + a[:-1] for p, each in zip(prompts, answers, strict=True) for a in each]
    with counting(model.model) as seen:
        dt.score_answers(model, prompts, answers)
        seen.clear()  # the first call tries the model too
        dt.score_answers(model, prompts, answers, max_tokens=max_tokens)
    if max_tokens == 4096:
        assert seen == [distinct_beginnings(texts)]
    else:
        assert len(seen) > 1
        assert max(seen) <= max_tokens
        assert sum(seen) < sum(map(len, texts))


def test_answers_of_one_token_run_the_prompt_alone() -> None:
    model = FAMILIES["gpt2"].model()
    prompt, answers = [5, 6, 7, 8], [[token] for token in range(3, 60)]
    with counting(model.transformer) as seen:
        dt.score_answers(model, [prompt], [answers])
        seen.clear()
        found = dt.score_answers(model, [prompt], [answers])
    assert seen == [4]
    assert_scores(found, one_by_one(model, [prompt], [answers]), [answers], 1e-5)


def test_each_distinct_prompt_is_encoded_once() -> None:
    model = FAMILIES["t5"].model()
    prompts, answers = questions()
    prompts[3] = prompts[0]
    with counting(model.get_encoder()) as seen:
        dt.score_answers(model, prompts, answers)
    assert seen == [3 * max(map(len, prompts))]


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.lists(st.lists(TOKEN, min_size=1, max_size=4), min_size=1, max_size=4), st.integers(1, 40))
def test_any_trie(prompts: list[Ids], candidates: list[Ids], max_tokens: int) -> None:
    model = FAMILIES["gpt2"].model().double()
    answers = [candidates[: number % len(candidates) + 1] for number in range(len(prompts))]
    found = dt.score_answers(model, prompts, answers, max_tokens=max_tokens)
    assert_scores(found, one_by_one(model, prompts, answers), answers)


@given(TEXTS, st.integers(1, 40))
def test_batches_are_as_full_as_their_tries_allow(texts: list[Ids], room: int) -> None:
    made = list(batches(texts, room))
    assert sorted(number for each in made for number in each) == list(range(len(texts)))
    for each in made:
        rows = pack_pairs([padded.Pair(0, texts[number], [1]) for number in each]).rows
        assert rows == distinct_beginnings([texts[number] for number in each])
        assert rows <= room or len(each) == 1
    for each, following in pairwise(made):  # the next would not have fitted in
        assert distinct_beginnings([texts[number] for number in (*each, following[0])]) > room


def test_the_mean_and_the_order() -> None:
    model = FAMILIES["llama"].model()
    prompts, answers = questions()
    found = dt.score_answers(model, prompts, answers)
    again = dt.score_answers(model, prompts[::-1], answers[::-1])[::-1]
    assert [[s.tokens for s in each] for each in found] == [[len(a) for a in each] for each in answers]
    for ours, theirs in zip(found, again, strict=True):
        assert [s.mean for s in ours] == pytest.approx([s.log_probability / s.tokens for s in theirs], rel=1e-5)


def test_nothing_to_score() -> None:
    model = FAMILIES["llama"].model()
    assert dt.score_answers(model, [], []) == []
    assert dt.score_answers(model, [[5], [6]], [[], []]) == [[], []]


def test_the_model_is_as_it_was_afterwards() -> None:
    model = FAMILIES["llama"].model().train()
    dt.attach(model, dt.LoRA(r=2, dropout=0.5))
    model.model.layers[1].eval()
    before = fingerprint(model)
    prompts, answers = questions()
    assert dt.score_answers(model, prompts, answers) == dt.score_answers(model, prompts, answers)
    assert fingerprint(model) == before


def test_what_is_known_of_a_model_is_asked_once() -> None:
    model = FAMILIES["llama"].model()
    prompts, answers = questions()
    stack = stacks_of(model).decoder
    assert stack is not None
    with counting(stack.module) as seen:
        for _ in range(3):
            dt.score_answers(model, prompts, answers)
        calls = len(seen)
        dt.attach(model, dt.LoRA(r=2))
        dt.score_answers(model, prompts, answers)
    assert calls == 4 + 3  # three texts alone and one packed batch, and then the three asked for
    assert len(seen) == calls + 4 + 1


@families("bert", "bert-mlm")
def test_an_encoder_is_refused(family: Family) -> None:
    with pytest.raises(SiteError, match="expected a model that writes, found an encoder"):
        dt.score_answers(family.model(), [[5]], [[[6]]])


def test_a_model_without_a_head_is_refused() -> None:
    model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**DECODER))
    with pytest.raises(SiteError, match="found none that generates"):
        dt.score_answers(model, [[5]], [[[6]]])


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([[5]], [], "expected a list for each of 1 prompts, found 0"),
        ([[5], []], [[[6]], [[6]]], "prompt 1: expected tokens, found none"),
        ([[5], [6]], [[[6]], [[6], []]], "answer 1 of prompt 1: expected tokens, found none"),
    ],
)
def test_what_can_not_be_scored_is_refused(prompts: Any, answers: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        dt.score_answers(FAMILIES["llama"].model(), prompts, answers)


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="max_tokens: expected at least 1, found 0"):
        dt.score_answers(FAMILIES["llama"].model(), [[5]], [[[6]]], max_tokens=0)


@pytest.mark.models
def test_smollm2_knows_capitals() -> None:
    base = dt.load_base("smollm2")
    stir(dt.attach(base.model, dt.LoRA(r=4)), size=0.01)

    def ids(text: str) -> Ids:
        return [int(i) for i in base.tokenizer(text)["input_ids"]]

    places = {"France": " Paris", "Italy": " Rome", "Japan": " Tokyo"}
    shots = "The capital of Spain is Madrid. The capital of Germany is Berlin. The capital of "
    prompts = [ids(f"{shots}{country} is") for country in places]
    answers = [[ids(city) for city in places.values()]] * len(prompts)
    found = dt.score_answers(base.model, prompts, answers)
    assert_scores(found, one_by_one(base.model, prompts, answers), answers, 1e-4)
    best = [max(range(3), key=lambda at, each=each: each[at].mean) for each in found]
    assert best == [0, 1, 2]
