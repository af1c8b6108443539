"""Tiny random models, one of each architecture that is supported: the columns of the test matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor, nn

ROWS, TOKENS, VOCABULARY = 3, 5, 99


@dataclass(frozen=True)
class Family:
    """An architecture: how to make a small model of it, what to feed it, and what it answers."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    answer: Callable[[Any], Tensor]
    """The output whose first dimension is the batch's rows."""
    targets: tuple[str, ...] = ("query", "value")
    """Where a method acts in tests that are about something else."""
    queries: tuple[str, ...] = field(default=("query",))
    """A single kind of projection."""

    def model(self) -> nn.Module:
        """A fresh copy; two calls give equal models."""
        return copy.deepcopy(_built(self)).eval()

    def outline(self) -> nn.Module:
        """The model on the meta device: shapes without memory."""
        with torch.device("meta"):
            return self.build()

    @torch.no_grad()
    def forward(self, model: nn.Module) -> Tensor:
        """The answer to the whole batch. Without gradients: torch may choose other kernels where there are some."""
        return self.answer(model(**self.inputs()))

    @torch.no_grad()
    def rows(self, model: nn.Module, wanted: list[int]) -> Tensor:
        """The answer to a part of the batch."""
        return self.answer(model(**{name: value[wanted] for name, value in self.inputs().items()}))

    def loss(self, model: nn.Module) -> Tensor:
        """Squared distance from fixed random targets."""
        answer = self.answer(model(**self.inputs()))
        generator = torch.Generator().manual_seed(1)
        return (answer - torch.randn(answer.shape, generator=generator).to(answer)).pow(2).mean()


@cache
def _built(family: Family) -> nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model = family.build()
    # Fresh norms are all ones and fresh biases all zeros, which would hide whatever goes wrong with them.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 8)
    torch.set_rng_state(state)
    return model


def _ids(seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(seed))


def _text() -> dict[str, Tensor]:
    mask = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask[1, 3:] = 0
    return {"input_ids": _ids(), "attention_mask": mask}


def _pair() -> dict[str, Tensor]:
    return {**_text(), "decoder_input_ids": _ids(1)}


def _pixels() -> Tensor:
    return torch.randn(ROWS, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _image() -> dict[str, Tensor]:
    return {"pixel_values": _pixels()}


def _captioned() -> dict[str, Tensor]:
    ids = _ids()
    ids[:, -1] = 2  # CLIP reads its answer at the end-of-text token
    return {"input_ids": ids, "pixel_values": _pixels()}


def _noisy() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(ROWS, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([1, 5, 9]),
        "encoder_hidden_states": torch.randn(ROWS, TOKENS, 16, generator=generator),
    }


SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
DECODER: dict[str, Any] = {
    **SIZES,
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PICTURE: dict[str, Any] = {**SIZES, "image_size": 16, "patch_size": 4}


def bert_config(**changes: Any) -> transformers.BertConfig:
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertConfig(**{**SIZES, **none, "vocab_size": VOCABULARY, "num_labels": 3, **changes})


def t5_config(**changes: Any) -> transformers.T5Config:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    tokens = {"vocab_size": VOCABULARY, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    return transformers.T5Config(**{**sizes, **tokens, **changes})


def gpt2_config(**changes: Any) -> transformers.GPT2Config:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCABULARY}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    none = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return transformers.GPT2Config(**{**sizes, **tokens, **none, **changes})


def clip_config() -> transformers.CLIPConfig:
    tokens = {"vocab_size": VOCABULARY, "max_position_embeddings": 64}
    ends = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    return transformers.CLIPConfig(text_config={**SIZES, **tokens, **ends}, vision_config=PICTURE, projection_dim=16)


def _unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def _logits(output: Any) -> Tensor:
    return output.logits  # type: ignore[no-any-return]


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("bert", lambda: transformers.BertForSequenceClassification(bert_config()), _text, _logits),
        Family("bert-mlm", lambda: transformers.BertForMaskedLM(bert_config()), _text, _logits),
        Family("t5", lambda: transformers.T5ForConditionalGeneration(t5_config()), _pair, _logits),
        Family(
            "t5-gated",
            lambda: transformers.T5ForConditionalGeneration(
                t5_config(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
            ),
            _pair,
            _logits,
        ),
        Family("llama", lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)), _text, _logits),
        Family(
            "qwen2",
            lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**DECODER, tie_word_embeddings=True)),
            _text,
            _logits,
        ),
        Family(
            "qwen3",
            lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER, head_dim=8)),
            _text,
            _logits,
        ),
        Family(
            "gpt2",
            lambda: transformers.GPT2LMHeadModel(gpt2_config()),
            _text,
            _logits,
            targets=("c_attn", "mlp_down"),
            queries=("c_attn",),
        ),
        Family(
            "vit",
            lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**PICTURE, num_labels=3)),
            _image,
            _logits,
        ),
        Family(
            "clip",
            lambda: transformers.CLIPModel(clip_config()),
            _captioned,
            lambda output: torch.cat([output.image_embeds, output.text_embeds], dim=-1),
        ),
        Family("unet", _unet, _noisy, lambda output: output.sample),
    )
}

# For what does not depend on the architecture: a classifier with a fresh head, two stacks, grouped heads, and weights
# that lie the other way round.
FEW = ("bert", "t5", "llama", "gpt2")
GENERATORS = ("t5", "llama", "gpt2")
