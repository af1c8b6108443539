"""Small random models with tokenizers, in folders as users have them, and small data to train them on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = ("red", "blue", "green", "black", "white", "grey", "pink", "gold")
SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<unk>", "[CLS]", "[SEP]"]
CHAT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
    "{% if m.role == 'assistant' %}{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}


def tokenizer(chat: bool = True, sep: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer; with `sep`, one that frames a text as BERT's does."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    if sep:
        ends = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        core.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )
    if chat:
        made.chat_template = CHAT
    return made


def save_llama(folder: Path, chat: bool = True, **settings: Any) -> Path:
    """A LLaMA that writes."""
    return _save(folder, transformers.LlamaForCausalLM, transformers.LlamaConfig, tokenizer(chat), settings)


def save_bert(folder: Path) -> Path:
    """A BERT without a task."""
    return _save(folder, transformers.BertModel, transformers.BertConfig, tokenizer(chat=False, sep=True), {})


def save_t5(folder: Path) -> Path:
    """An encoder-decoder."""
    settings = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    }
    return _save(
        folder, transformers.T5ForConditionalGeneration, transformers.T5Config, tokenizer(chat=False), settings
    )


def _save(folder: Path, model: Any, config: Any, made: PreTrainedTokenizerFast, settings: Mapping[str, Any]) -> Path:
    torch.manual_seed(1)
    ids = {"pad_token_id": made.pad_token_id, "bos_token_id": made.bos_token_id, "eos_token_id": made.eos_token_id}
    sizes = {} if "d_model" in settings else SIZES
    model(config(**{**sizes, "vocab_size": len(made), **ids, **settings})).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def pairs(count: int) -> list[dict[str, str]]:
    """A colour, and the next one in the list."""
    return [{"prompt": f"{WORDS[i % 8]} {WORDS[i // 8 % 8]}", "completion": WORDS[(i + 1) % 8]} for i in range(count)]


def labelled(count: int) -> str:
    """CSV: a text is warm if its first word is."""
    warm = {"red", "pink", "gold"}
    rows = (f"{WORDS[i % 8]} {WORDS[i // 8 % 8]},{'warm' if WORDS[i % 8] in warm else 'cold'}" for i in range(count))
    return "text,label\n" + "\n".join(rows) + "\n"


def write_jsonl(file: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_config(folder: Path, base: Path, **changes: Any) -> Path:
    """A run that takes a second or two; `changes` go into its sections."""
    data: dict[str, Any] = {
        "base": {"model": str(base)},
        "delta": {"method": "lora", "r": 4},
        "data": {"train": str(folder / "train.jsonl")},
        "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "logging_steps": 2},
        "output": str(folder / "out"),
    }
    for name, value in changes.items():
        data[name] = {**data[name], **value} if isinstance(value, dict) and name in data else value
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({name: value for name, value in data.items() if value is not None}))
    return file
