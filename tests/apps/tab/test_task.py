"""What a model reads: prompts as in the paper, and answers whose tokens go on from them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

import deltatune as dt
from deltatune.apps.tab.classifier import TabLLMClassifier
from deltatune.apps.tab.task import Task
from deltatune.errors import ConfigError
from tests.cli import tiny

from . import bases
from .bases import WARMTH


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bases.llama(tmp_path_factory.mktemp("llama"))


def only(tokenizer: Any, task: str = "causal-lm") -> Any:
    """As much of a base as has to do with text."""
    return SimpleNamespace(tokenizer=tokenizer, task=task)


def metaspace() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space before any text, as LLaMA 2's does."""
    words = ["▁", "▁yes", "▁no", "yes", "no", ":", "▁Answer", "\n"]
    core = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", -9.0), *((word, -1.0) for word in words)], 0))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<unk>")


def test_the_prompt_is_the_papers() -> None:
    assert WARMTH.prompt_of("The colour is red.") == "The colour is red.\n\nIs it warm?\nAnswer:"


def test_the_question_may_come_first() -> None:
    task = Task("Is it warm?", {0: "no", 1: "yes"}, "question-first")
    assert task.prompt_of("The colour is red.") == "Is it warm?\n\nThe colour is red.\nAnswer:"


def test_an_answer_behind_text_starts_with_a_space() -> None:
    tokenizer = tiny.tokenizer(chat=False)
    (prompt,), answers = WARMTH.prompts(only(tokenizer), ["Red."]), WARMTH.answer_tokens(only(tokenizer))
    assert tokenizer.decode(prompt) == WARMTH.prompt_of("Red.")
    assert [tokenizer.decode(answer) for answer in answers] == [" no", " yes"]


def test_an_answer_in_a_chat_starts_at_once() -> None:
    tokenizer = tiny.tokenizer(chat=True)
    (prompt,), answers = WARMTH.prompts(only(tokenizer), ["Red."]), WARMTH.answer_tokens(only(tokenizer))
    assert tokenizer.decode(prompt) == f"<|user|>{WARMTH.prompt_of('Red.')}<|assistant|>"
    assert [tokenizer.decode(answer) for answer in answers] == ["no", "yes"]


def test_a_tokenizer_that_adds_spaces_adds_one() -> None:
    tokenizer = metaspace()
    found = [tokenizer.convert_ids_to_tokens(answer) for answer in WARMTH.answer_tokens(only(tokenizer))]
    assert found == [["▁no"], ["▁yes"]]


def test_a_decoder_behind_an_encoder_starts_anew() -> None:
    tokenizer = tiny.tokenizer(chat=False)
    answers = WARMTH.answer_tokens(only(tokenizer, "seq2seq-lm"))
    assert [tokenizer.decode(answer) for answer in answers] == ["no", "yes"]


# Answers that begin other ones.


def test_an_answer_that_begins_another_is_ended() -> None:
    tokenizer = tiny.tokenizer(chat=False)
    answers = Task("Which?", {0: "red", 1: "red blue", 2: "gold"}).answer_tokens(only(tokenizer))
    assert [tokenizer.decode(answer) for answer in answers] == [" red</s>", " red blue</s>", " gold</s>"]


def test_without_such_an_answer_nothing_is_added() -> None:
    tokenizer = tiny.tokenizer(chat=False)
    answers = Task("Which?", {0: "red blue", 1: "red gold"}).answer_tokens(only(tokenizer))
    assert [tokenizer.decode(answer) for answer in answers] == [" red blue", " red gold"]


def test_the_end_makes_answers_exclude_each_other(llama: str) -> None:
    """Without it the shorter answer is part of the longer, so no model could find it the less likely one."""
    frame, warm = bases.rows()
    task = {"answers": {0: "red", 1: "red blue"}}
    classifier = TabLLMClassifier(llama, **task, steps=80, learning_rate=1e-2).fit(frame, warm)
    assert classifier.score(frame, warm) == 1
    with classifier._shared.using(classifier.delta_) as base:
        prompts = classifier.task_.prompts(base, classifier.serializer_.texts(frame))
        ended = classifier.task_.answer_tokens(base)
        without = dt.score_answers(base.model, prompts, [[answer[:-1] for answer in ended]] * len(prompts))
        found = dt.score_answers(base.model, prompts, [ended] * len(prompts))
    assert all(short.log_probability >= long.log_probability for short, long in without)
    assert all(math.exp(short.log_probability) + math.exp(long.log_probability) <= 1 + 1e-6 for short, long in found)
    assert [short.log_probability < long.log_probability for short, long in found] == warm.astype(bool).tolist()


# What is refused.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("", {0: "a", 1: "b"}), "question: expected text, found none"),
        (("Q?", {0: "a"}), "answers: expected one for each of 2 classes or more, found 1"),
        (("Q?", {0: "a", 1: " a "}), "answers: expected different texts"),
        (("Q?", {0: "a", 1: " "}), "answers: expected different texts"),
        (("Q?", {0: "a", 1: "b"}, "answer-first"), "order: expected row-first or question-first, found 'answer-first'"),
    ],
)
def test_what_can_not_be_asked_is_refused(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task(*settings)


def test_answers_of_the_same_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="answers: expected different tokens"):
        Task("Q?", {0: "x", 1: "y"}).answer_tokens(only(metaspace()))
