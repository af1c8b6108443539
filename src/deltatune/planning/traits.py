"""What can be done with a method's deltas, found by trying on a small base of the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from deltatune.attachment.capabilities import capabilities
from deltatune.attachment.lifecycle import attach, detach
from deltatune.errors import DeltaError
from deltatune.methods.base import Method

__all__ = ["Traits", "stand_in", "traits"]


class Traits(NamedTuple):
    """What matters where deltas are used."""

    merges: bool
    """It has a form as weights."""
    routes: bool
    """Rows of a batch can take it or leave it."""


def traits(model: nn.Module, method: Method) -> Traits | None:
    """Try a method on a model, which is then as it was; ``None`` if it can not be attached there."""
    try:
        delta = attach(model, method)
    except DeltaError:
        return None
    try:
        found = capabilities(delta)
        return Traits(found["merge"] is None, found["route"] is None)
    finally:
        detach(model)


def stand_in(task: str) -> nn.Module:
    """A small random model for a task: a LLaMA, a T5 or a BERT."""
    makers: dict[str, Callable[[], nn.Module]] = {"causal-lm": _llama, "seq2seq-lm": _t5}
    return makers.get(task, _bert)().eval()


SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SIZES, vocab_size=128, num_key_value_heads=2, tie_word_embeddings=True)
    model: nn.Module = LlamaForCausalLM(config)
    return model


def _t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes: dict[str, Any] = {
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    }
    model: nn.Module = T5ForConditionalGeneration(T5Config(**sizes, vocab_size=128))
    return model


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    model: nn.Module = BertForSequenceClassification(BertConfig(**SIZES, vocab_size=128))
    return model
