"""A model behind an API, over real HTTP: what it says, what goes wrong on the way, and what must never be told."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import deltatune as dt
from deltatune.decoding import endpoint as endpoints
from deltatune.decoding.endpoint import EndpointError
from deltatune.errors import AttachError, ConfigError, DeltaError
from deltatune.io.bases import Base
from tests.cli import tiny
from tests.decoding.server import Server, serving
from tests.models.tools import stir

KEY = "sk-proj-Very_Secret-0123456789"
PROMPT = "red blue green"
TOKENIZER = tiny.tokenizer()


def model(seed: int) -> Any:
    torch.manual_seed(seed)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    made = LlamaForCausalLM(LlamaConfig(**tiny.SIZES, vocab_size=len(TOKENIZER), **tokens)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    return made.double()


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with serving(model(0), TOKENIZER) as server:
        yield server


@pytest.fixture
def server(shared: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Without faults, without a key, and without long waits."""
    shared.faults, shared.key, shared.seen = [], None, []
    monkeypatch.setattr(endpoints, "_FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return shared


def endpoint(server: Server, **settings: Any) -> dt.Endpoint:
    return dt.Endpoint(server.url, "tiny", **settings)


def box(server: Server, alpha: Any = 1.0, **settings: Any) -> dt.BlackBox:
    return dt.BlackBox(endpoint(server, **settings), model(1), model(2), tokenizer=TOKENIZER, alpha=alpha)


@torch.no_grad()
def last(each: Any, text: str) -> torch.Tensor:
    return each(input_ids=torch.tensor([TOKENIZER(text)["input_ids"]])).logits[0, -1]


def expected(text: str, alpha: float, top: int, base: Any) -> dict[str, float]:
    """The restricted form, token by token."""
    scores = last(base, text).log_softmax(dim=-1)
    change = last(model(1), text).log_softmax(dim=-1) - last(model(2), text).log_softmax(dim=-1)
    spelled: dict[str, float] = {}
    for token in scores.topk(top).indices.tolist():
        word = TOKENIZER.decode([token])
        known = "\ufffd" not in word and TOKENIZER(word, add_special_tokens=False)["input_ids"] == [token]
        spelled[f"bytes:{token}" if "\ufffd" in word else word] = float(scores[token] + alpha * change[token] * known)
    total = torch.tensor(list(spelled.values())).logsumexp(dim=0)
    return {word: float((score - total).exp()) for word, score in spelled.items()}


# What it computes.


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_only_what_is_returned_is_reweighted(server: Server, alpha: float) -> None:
    found = box(server, alpha).next_tokens(PROMPT)
    wanted = expected(PROMPT, alpha, 5, server.model)
    assert dict(found.probabilities) == pytest.approx(wanted)
    assert list(found.probabilities) == sorted(wanted, key=lambda word: -wanted[word])
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert [word for word in found.base if word.startswith("bytes:")] == list(found.unsteered)


def test_where_all_tokens_are_returned_it_is_proxy_tuning(server: Server) -> None:
    found = box(server, top=len(TOKENIZER)).next_tokens(PROMPT).probabilities
    proxy = dt.ProxyTuned(server.model, model(1), model(2))
    words = ["red", " blue", " gold", "a", "z", " "]
    ids = [TOKENIZER(word)["input_ids"][0] for word in words]
    logits = last(proxy, PROMPT)[ids]
    logs = torch.tensor([found[word] for word in words], dtype=torch.double).log()
    torch.testing.assert_close(logs - logs[0], logits - logits[0])


@pytest.mark.parametrize("alpha", [0.0, 1.0, [0.0, 3.0]])
def test_writing_takes_the_likeliest_each_time(server: Server, alpha: Any) -> None:
    written = box(server, alpha).generate(PROMPT, max_new_tokens=6)
    text = ""
    for step, token in enumerate(written.tokens):
        strength = alpha if isinstance(alpha, float) else alpha[min(step, 1)]
        usable = expected(PROMPT + text, strength, 5, server.model)
        usable = {word: share for word, share in usable.items() if not word.startswith("bytes:")}
        assert token == max(usable, key=lambda word: usable[word])
        text += token
    assert written.text == text.removesuffix("</s>")
    assert len(server.seen) == len(written.steps)
    assert 0 <= written.changed <= 1


def test_a_delta_on_and_off_are_the_experts(server: Server) -> None:
    small, plain = model(1), model(1)
    stir(dt.attach(small, dt.LoRA(r=4)), size=0.5)
    one = dt.BlackBox(endpoint(server), Base(small.double(), TOKENIZER, "x", "causal-lm"))
    two = dt.BlackBox(endpoint(server), small, plain, tokenizer=TOKENIZER)
    assert dict(one.next_tokens(PROMPT).probabilities) == pytest.approx(dict(two.next_tokens(PROMPT).probabilities))


def test_drawing_depends_on_the_seed_alone(server: Server) -> None:
    settings = {"max_new_tokens": 6, "temperature": 2.0}
    first, again, other = (box(server).generate(PROMPT, seed=seed, **settings) for seed in (1, 1, 2))
    assert first.tokens == again.tokens != other.tokens


def test_writing_ends_at_a_stop_or_an_end(server: Server) -> None:
    whole = box(server).generate(PROMPT, max_new_tokens=6)
    stop = whole.tokens[2]
    cut = box(server).generate(PROMPT, max_new_tokens=6, stop=[stop])
    assert cut.text == whole.text[: whole.text.index(stop)]
    ended = dt.BlackBox(endpoint(server), model(1), model(2), tokenizer=TOKENIZER, ends=[whole.tokens[0]])
    assert ended.generate(PROMPT).text == ""


def test_the_experts_may_read_another_prompt(server: Server) -> None:
    found = box(server).next_tokens(PROMPT, expert_prompt="gold")
    change = last(model(1), "gold").log_softmax(-1) - last(model(2), "gold").log_softmax(-1)
    words = [word for word in found.base if not word.startswith("bytes:")][:2]
    at = [TOKENIZER(word)["input_ids"][0] for word in words]
    ratio = found.base[words[0]] - found.base[words[1]] + float(change[at[0]] - change[at[1]])
    steered = torch.tensor([found.probabilities[word] for word in words], dtype=torch.double).log()
    assert float(steered[0] - steered[1]) == pytest.approx(ratio)


# Multiple choice.


def test_choosing_among_what_is_returned(server: Server) -> None:
    everything = {"top": len(TOKENIZER)}
    found = box(server, **everything).choose(PROMPT, ["a", "b", " c"])
    assert found.missing == ()
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert found.answer == max(found.probabilities, key=lambda option: found.probabilities[option])
    assert len(server.seen) == 1
    tokens = dict(box(server, **everything).next_tokens(PROMPT).probabilities)
    assert found.probabilities["a"] / found.probabilities["b"] == pytest.approx(tokens["a"] / tokens["b"])


def test_an_option_that_was_not_returned(server: Server) -> None:
    first = next(word for word in endpoint(server).next_tokens(PROMPT) if word.strip() and "bytes" not in word)
    absent = next(word for word in "abcdefg" if word not in endpoint(server).next_tokens(PROMPT))
    zero = box(server).choose(PROMPT, [first, absent])
    assert (zero.answer, zero.missing) == (first, (absent,))
    assert zero.probabilities == {first: pytest.approx(1), absent: 0}
    base = endpoint(server).next_tokens(PROMPT)
    least = box(server, alpha=0.0).choose(PROMPT, [first, absent], missing="least")
    assert least.missing == (absent,)
    ratio = torch.tensor(min(base.values()) - base[first], dtype=torch.double).exp()
    assert least.probabilities[absent] / least.probabilities[first] == pytest.approx(float(ratio))
    none = box(server).choose(PROMPT, [absent])
    assert (none.answer, none.probabilities) == (None, {absent: 0})


def test_a_chat_is_asked_for_the_first_token_of_its_answer(server: Server) -> None:
    turns = [{"role": "user", "content": PROMPT}]
    found = box(server).next_tokens(turns)
    assert server.seen[0]["path"] == "/v1/chat/completions"
    assert server.seen[0]["body"]["messages"] == turns
    text = TOKENIZER.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert dict(found.probabilities) == pytest.approx(expected(text, 1.0, 5, server.model))


# What goes wrong.


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut"])
def test_what_passes_is_asked_again(server: Server, fault: str) -> None:
    wanted = endpoint(server).next_tokens(PROMPT)
    server.faults = [fault, fault]
    asked = endpoint(server)
    assert asked.next_tokens(PROMPT) == wanted
    assert (asked.usage.requests, asked.usage.retries) == (1, 2)


@pytest.mark.parametrize("fault", ["slow", "trickle"])
def test_a_slow_answer_is_given_up(server: Server, fault: str) -> None:
    wanted = endpoint(server).next_tokens(PROMPT)
    server.faults = [fault]
    asked = endpoint(server, timeout=0.3)
    begun = time.monotonic()
    assert asked.next_tokens(PROMPT) == wanted
    assert time.monotonic() - begun < 0.9
    assert asked.usage.retries == 1


def test_it_ends_after_so_many_tries_or_so_much_time(server: Server) -> None:
    server.faults = ["500"] * 9
    with pytest.raises(EndpointError, match="found status 500 after 3 tries"):
        endpoint(server, retries=2).next_tokens(PROMPT)
    assert len(server.seen) == 3
    server.faults = ["slow"] * 9
    begun = time.monotonic()
    with pytest.raises(EndpointError, match="none within"):
        endpoint(server, timeout=0.2, patience=0.5, retries=99).next_tokens(PROMPT)
    assert time.monotonic() - begun < 0.9


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("400", "status 400"),
        ("404", "check url and model"),
        ("junk", "no JSON"),
        ("bare", "log-probabilities of 'tiny'"),
    ],
)
def test_what_stays_wrong_is_told_at_once(server: Server, fault: str, message: str) -> None:
    server.faults = [fault]
    with pytest.raises(EndpointError, match=message):
        endpoint(server).next_tokens(PROMPT)
    assert len(server.seen) == 1


def test_nobody_there(server: Server) -> None:
    with pytest.raises(EndpointError, match="broken connection"):
        dt.Endpoint("http://127.0.0.1:9/v1", "tiny", retries=1).next_tokens(PROMPT)


# What it costs.


def test_tokens_and_costs_are_counted(server: Server) -> None:
    asked = endpoint(server, prices=(2.0, 10.0))
    for _ in range(3):
        asked.next_tokens(PROMPT)
    tokens = len(TOKENIZER(PROMPT)["input_ids"])
    assert (asked.usage.requests, asked.usage.prompt_tokens, asked.usage.completion_tokens) == (3, 3 * tokens, 3)
    assert asked.usage.cost == pytest.approx((3 * tokens * 2 + 3 * 10) / 1e6)
    assert asked.usage.seconds > 0


def test_what_is_kept_is_not_asked_again(server: Server, tmp_path: Path) -> None:
    first = box(server, cache=tmp_path / "kept").generate(PROMPT, max_new_tokens=4)
    asked = len(server.seen)
    again = box(server, cache=tmp_path / "kept")
    assert again.generate(PROMPT, max_new_tokens=4) == first
    assert len(server.seen) == asked
    assert (again.endpoint.usage.cached, again.endpoint.usage.requests) == (asked, 0)
    other = box(server, cache=tmp_path / "kept", top=3)
    other.next_tokens(PROMPT)
    assert other.endpoint.usage.requests == 1
    assert not list((tmp_path / "kept").glob(".*"))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"question": 1, "top": []}', "\x00"])
def test_a_file_that_does_not_fit_is_asked_anew(server: Server, tmp_path: Path, content: str) -> None:
    wanted = endpoint(server, cache=tmp_path).next_tokens(PROMPT)
    (file,) = tmp_path.iterdir()
    whole = file.read_text()
    file.write_text(content)
    assert endpoint(server, cache=tmp_path).next_tokens(PROMPT) == wanted
    assert file.read_text() == whole


# The key.


def test_the_key_goes_to_the_server_and_nowhere_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    server.key = KEY
    told: list[str] = []
    with caplog.at_level(logging.DEBUG):
        steered = box(server, key_variable="MY_KEY", cache=tmp_path)
        steered.generate(PROMPT, max_new_tokens=2)
        assert server.seen[0]["headers"]["Authorization"] == f"Bearer {KEY}"
        server.key = "another"
        for fault in ("", "400", "500", "junk", "cut"):
            server.faults = [fault]
            with pytest.raises(EndpointError) as caught:
                endpoint(server, key_variable="MY_KEY", retries=0).next_tokens("blue")
            error: BaseException | None = caught.value
            while error is not None:
                told.append(repr(error))
                error = error.__cause__ or error.__context__
    told += [repr(steered.endpoint), str(vars(steered.endpoint)), str(steered.endpoint.usage), caplog.text]
    told += [record.getMessage() for record in caplog.records]
    told += [file.read_text() for file in tmp_path.iterdir()]
    assert any("check MY_KEY" in text for text in told)
    assert not [text for text in told if KEY in text]
    body = json.dumps([seen["body"] for seen in server.seen])
    assert KEY not in body


def test_the_key_is_read_when_it_is_needed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = KEY
    asked = endpoint(server)
    with pytest.raises(EndpointError, match=r"status 401 .*check OPENAI_API_KEY"):
        asked.next_tokens(PROMPT)
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    assert asked.next_tokens(PROMPT)
    with pytest.raises(EndpointError, match="status 401"):
        endpoint(server, key_variable=None).next_tokens(PROMPT)


def test_the_key_is_not_sent_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ConfigError, match="https where the key in OPENAI_API_KEY is sent") as caught:
        dt.Endpoint("http://192.0.2.1/v1", "tiny").next_tokens(PROMPT)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\n-ü")
    with pytest.raises(ConfigError, match="printable ASCII"):
        dt.Endpoint("https://192.0.2.1/v1", "tiny").next_tokens(PROMPT)


def test_a_missing_package_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(DeltaError, match=r"pip install deltatune\[api\]"):
        endpoint(server).next_tokens(PROMPT)


# What is refused.


def test_what_does_not_fit_is_refused(server: Server) -> None:
    for url in (
        "api.openai.com/v1",
        "ftp://x/v1",
        "https://user:secret@x/v1",
        "https://x/v1?key=secret",
        "http://[x/v1",
    ):
        with pytest.raises(ConfigError, match="url") as caught:
            dt.Endpoint(url, "tiny")
        assert "secret" not in str(caught.value)
    for name in ("top", "timeout", "patience"):
        with pytest.raises(ConfigError, match=name):
            endpoint(server, **{name: 0})
    for key in (KEY, "gsk_0123456789abcdef", ""):
        with pytest.raises(ConfigError, match="key_variable: expected a name") as caught:
            endpoint(server, key_variable=key)
        assert not key or key not in str(caught.value)
    with pytest.raises(ConfigError, match="retries"):
        endpoint(server, retries=-1)
    with pytest.raises(ConfigError, match="tokenizer"):
        dt.BlackBox(endpoint(server), model(1), model(2))
    with pytest.raises(AttachError, match="found none"):
        dt.BlackBox(endpoint(server), model(1), tokenizer=TOKENIZER)
    for options in ([], ["a", "a "], [""]):
        with pytest.raises(ConfigError, match="options"):
            box(server).choose(PROMPT, options)
    with pytest.raises(ConfigError, match="zero or least"):
        box(server).choose(PROMPT, ["a"], missing="floor")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="generate"):
        box(server).generate(PROMPT, temperature=-1)
    assert not server.seen


def test_tokens_are_those_of_the_vocabulary_where_a_space_is_put_before_any_text(server: Server) -> None:
    pieces = ["<unk>", "</s>", "\u2581A", "\u2581the", "A", "ing", "\u2581ing"]
    words = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(models.WordLevel(words, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    spaced = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    steered = dt.BlackBox(endpoint(server), model(1), model(2), tokenizer=spaced)
    for token in ("A", " A", " the", "ing", " ing"):
        assert steered._number(token) == words[token.replace(" ", "\u2581")]
    assert steered._number("nothing") is None
