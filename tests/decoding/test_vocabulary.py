"""Which tokens are the same: by what they stand for, not by their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.io.bases import Base

WORDS = ["red", "blue", "green", "black", "white", "grey"]


def tokenizer(words: list[str], specials: tuple[str, ...] = ("<pad>", "<s>", "</s>", "<unk>")) -> Any:
    vocabulary = {token: number for number, token in enumerate([*specials, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=specials[3]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), specials, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def model(columns: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=columns, pad_token_id=0, initializer_range=0.5)).double()


@torch.no_grad()
def logits(each: Any, ids: list[int]) -> torch.Tensor:
    return each(input_ids=torch.tensor([ids])).logits[0]


def test_without_tokenizers_sizes_have_to_agree() -> None:
    assert dt.ProxyTuned(model(10), model(10), model(10)).vocabulary.share == 1
    with pytest.raises(ConfigError, match="one size, found 10 of the base, 12 of the expert"):
        dt.ProxyTuned(model(10), model(12), model(12))
    with pytest.raises(ConfigError, match="tokenizers to map by"):
        dt.ProxyTuned(model(10), model(10), model(10), vocabulary="map")
    with pytest.raises(ConfigError, match="same or map"):
        dt.ProxyTuned(model(10), model(10), model(10), vocabulary="other")  # type: ignore[arg-type]


def test_two_vocabularies_of_one_size_are_told_apart() -> None:
    own, theirs = tokenizer(WORDS), tokenizer(WORDS[::-1])
    with pytest.raises(ConfigError, match=r"two that share 100.0%"):
        dt.ProxyTuned(model(10), model(10), model(10), tokenizers=(own, theirs))
    with pytest.raises(ConfigError, match="antiexpert"):
        dt.ProxyTuned(model(10), model(10), model(10), tokenizers=(own, own, theirs))


def test_models_that_load_base_gave_bring_their_tokenizers() -> None:
    own, theirs = (Base(model(10), made, "x", "causal-lm") for made in (tokenizer(WORDS), tokenizer(WORDS[::-1])))
    dt.attach(theirs.model, dt.LoRA(r=2, targets=("query",)))
    with pytest.raises(ConfigError, match="two that share"):
        dt.ProxyTuned(own, theirs)
    assert dt.ProxyTuned(own, theirs, vocabulary="map").vocabulary.share == 1


def test_columns_without_a_token_are_not_steered() -> None:
    both = tokenizer(WORDS)
    base, expert, anti = model(16), model(12, 1), model(11, 2)
    proxy = dt.ProxyTuned(base, expert, anti, tokenizers=(both, both))
    ids = [4, 5, 6]
    with torch.no_grad():
        found = proxy(input_ids=torch.tensor([ids])).logits[0]
    change = logits(expert, ids).log_softmax(-1)[:, :10] - logits(anti, ids).log_softmax(-1)[:, :10]
    torch.testing.assert_close(found[:, :10], logits(base, ids)[:, :10] + change)
    assert torch.equal(found[:, 10:], logits(base, ids)[:, 10:])


def test_tokens_are_mapped_by_how_they_are_written() -> None:
    own, theirs = tokenizer(WORDS), tokenizer(["grey", "red", "gold", "blue"], ("[P]", "[B]", "[E]", "[U]"))
    base, expert, anti = model(10), model(8, 1), model(8, 2)
    proxy = dt.ProxyTuned(base, expert, anti, tokenizers=(own, theirs), vocabulary="map", alpha=0.5)
    assert proxy.vocabulary.share == pytest.approx(7 / 10)  # three words, and the four special tokens by their use
    names = {"red": "red", "blue": "blue", "grey": "grey", "<pad>": "[P]", "<s>": "[B]", "</s>": "[E]", "<unk>": "[U]"}
    ids = own.convert_tokens_to_ids(["<s>", "red", "green", "grey"])
    their_ids = theirs.convert_tokens_to_ids(["[B]", "red", "[U]", "grey"])
    expected = logits(base, ids)
    change = logits(expert, their_ids).log_softmax(-1) - logits(anti, their_ids).log_softmax(-1)
    for mine, yours in names.items():
        at, there = own.convert_tokens_to_ids(mine), theirs.convert_tokens_to_ids(yours)
        expected[:, at] += 0.5 * change[:, there]
    with torch.no_grad():
        torch.testing.assert_close(proxy(input_ids=torch.tensor([ids])).logits[0], expected)
    written = proxy.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
    assert torch.equal(written, proxy.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False, use_cache=False))


def test_nothing_in_common_is_refused_even_if_a_mapping_is_asked_for() -> None:
    own, theirs = tokenizer(WORDS), tokenizer(WORDS, ("[P]", "[B]", "[E]", "[U]"))
    for name in ("pad_token", "bos_token", "eos_token", "unk_token"):
        setattr(theirs, name, None)
    theirs = tokenizer(["gold"], ("[P]", "[B]", "[E]", "[U]"))
    bare = PreTrainedTokenizerFast(tokenizer_object=theirs.backend_tokenizer)
    with pytest.raises(ConfigError, match="tokens that both have"):
        dt.ProxyTuned(model(10), model(5), model(5), tokenizers=(own, bare), vocabulary="map")


def test_a_special_token_without_a_column_is_not_mapped() -> None:
    own, theirs = tokenizer(WORDS), tokenizer(WORDS)
    theirs.add_special_tokens({"pad_token": "[PAD]"})  # and nobody resized the model
    columns = len(theirs) - 1
    proxy = dt.ProxyTuned(
        model(10), model(columns, 1), model(columns, 2), tokenizers=(own, theirs), vocabulary="map", alpha=1.0
    )
    with torch.no_grad():
        assert torch.isfinite(proxy(input_ids=torch.tensor([[4, 5, 6]])).logits).all()
