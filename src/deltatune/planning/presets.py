"""Well-known bases by their shapes, so that a plan needs neither their files nor a network."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["PRESETS", "Preset"]


class Preset(NamedTuple):
    """A base: the kind of its config in ``transformers``, its class, and the settings that differ from that kind's."""

    kind: str
    architecture: str
    dtype: str
    """In which its weights are stored."""
    source: str
    """What ``load_base`` takes for it."""
    settings: dict[str, Any]


def _decoder(
    vocabulary: int, width: int, layers: int, inner: int, heads: int, groups: int, **more: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "tie_word_embeddings": False,
        **more,
    }


PRESETS: dict[str, Preset] = {
    "llama2-7b": Preset(
        "LlamaConfig",
        "LlamaForCausalLM",
        "float16",
        "meta-llama/Llama-2-7b-hf",
        _decoder(32000, 4096, 32, 11008, 32, 32),
    ),
    "llama3-8b": Preset(
        "LlamaConfig",
        "LlamaForCausalLM",
        "bfloat16",
        "meta-llama/Meta-Llama-3-8B",
        _decoder(128256, 4096, 32, 14336, 32, 8),
    ),
    "mistral-7b": Preset(
        "MistralConfig",
        "MistralForCausalLM",
        "bfloat16",
        "mistralai/Mistral-7B-v0.1",
        _decoder(32000, 4096, 32, 14336, 32, 8),
    ),
    "qwen2-7b": Preset(
        "Qwen2Config", "Qwen2ForCausalLM", "bfloat16", "Qwen/Qwen2-7B", _decoder(152064, 3584, 28, 18944, 28, 4)
    ),
    "qwen2.5-0.5b": Preset(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        "bfloat16",
        "Qwen/Qwen2.5-0.5B",
        _decoder(151936, 896, 24, 4864, 14, 2, tie_word_embeddings=True),
    ),
    "smollm2": Preset(
        "LlamaConfig",
        "LlamaForCausalLM",
        "float32",
        "smollm2",
        _decoder(49152, 576, 30, 1536, 9, 3, tie_word_embeddings=True),
    ),
    "t5-base": Preset(
        "T5Config",
        "T5ForConditionalGeneration",
        "float32",
        "google-t5/t5-base",
        {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "decoder_start_token_id": 0},
    ),
    "bert-base": Preset("BertConfig", "BertForMaskedLM", "float32", "google-bert/bert-base-uncased", {}),
    "minilm": Preset(
        "BertConfig",
        "BertModel",
        "float32",
        "minilm",
        {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "num_attention_heads": 12},
    ),
}
"""Under the names that the command line takes. ``smollm2`` and ``minilm`` are those that pip can bring."""
