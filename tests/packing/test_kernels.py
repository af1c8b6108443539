"""Flash and flex attention get packed batches in their own form: the same answers and gradients as block by block."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import deltatune as dt
from deltatune.attachment.part import Rows
from deltatune.errors import AttachError
from deltatune.packing.attend import attend
from deltatune.packing.kernels import attend_by_lengths, attend_by_rule
from deltatune.packing.layout import Layout
from deltatune.packing.packed import pack
from deltatune.packing.path import PackedModel, why_not
from deltatune.packing.trie import build
from tests.models.families import FAMILIES, VOCABULARY
from tests.models.methods import ROWS
from tests.models.tools import attach, stir
from tests.packing.texts import TEXTS, examples

HEADS, KV_HEADS, WIDTH, FRONT = 4, 2, 8, 3


class Causal(nn.Module):
    """As much of an attention module as the functions look at."""

    is_causal = True
    num_key_value_groups = HEADS // KV_HEADS


def flash(
    module: nn.Module | None, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any
) -> tuple[Tensor, None]:
    """What flash attention documents: texts by cumulated lengths, causality aligned at their ends, a window or none."""
    assert mask is None
    if "cu_seq_lens_q" not in options:
        options |= {f"cu_seq_lens_{w}": [0, states.shape[2]] for w, states in (("q", query), ("k", key))}
    pieces = []
    for (a, b), (c, d) in zip(pairwise(options["cu_seq_lens_q"]), pairwise(options["cu_seq_lens_k"]), strict=True):
        q, k, v = query[:, :, a:b], key[:, :, c:d], value[:, :, c:d]
        back = torch.arange(k.shape[2])[None] - torch.arange(q.shape[2])[:, None] - (k.shape[2] - q.shape[2])
        window = options.get("sliding_window") or math.inf
        k, v = (each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (k, v))
        scores = q @ k.transpose(-1, -2) * (options.get("scaling") or q.shape[-1] ** -0.5)
        scores = scores.masked_fill((back > 0) | (back <= -window), -math.inf)
        pieces.append((scores.softmax(-1) @ v).transpose(1, 2))
    return torch.cat(pieces, dim=1), None


def flex(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
) -> tuple[Tensor, None]:
    query, key, value = (each.detach() for each in (query, key, value))  # on the CPU it has no backward pass
    key, value = (each.repeat_interleave(HEADS // KV_HEADS, dim=1) for each in (key, value))
    return flex_attention(query, key, value, block_mask=mask, scale=options.get("scaling")).transpose(1, 2), None


def states(layout: Layout) -> tuple[Tensor, Tensor, Tensor, list[Rows]]:
    rows, made = len(layout.reach), {"dtype": torch.double, "requires_grad": True}
    query = torch.randn(1, HEADS, rows, WIDTH, **made)
    key, value = (torch.randn(1, KV_HEADS, rows, WIDTH, **made) for _ in range(2))
    front = [Rows(*(torch.randn(KV_HEADS, FRONT, WIDTH, **made) for _ in range(2)), None)]
    return query, key, value, front


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(("kernel", "inner"), [(attend_by_lengths, flash), (attend_by_rule, flex)])
@pytest.mark.parametrize("is_begun", [False, True])
@settings(deadline=None, max_examples=20)
@given(TEXTS, st.integers(1, 4))
def test_they_are_block_by_block(kernel: Any, inner: Any, is_begun: bool, texts: list[list[int]], least: int) -> None:
    layout = Layout.of(build(texts, least=least))
    query, key, value, front = states(layout)
    front = front if is_begun else []
    expected = attend(sdpa_attention_forward, Causal(), query, key, value, layout, front)
    found = kernel(inner, Causal(), query, key, value, layout, front)
    torch.testing.assert_close(found, expected)
    if not found.requires_grad:
        return
    inputs = [query, key, value, *(tensor for rows in front for tensor in rows[:2])]
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize(("kernel", "inner"), [(attend_by_lengths, flash), (attend_by_rule, flex)])
def test_a_sliding_window(kernel: Any, inner: Any, window: int) -> None:
    layout = Layout.of(build([text["input_ids"] for text in examples(VOCABULARY)], least=4))
    query, key, value, _ = states(layout)
    expected = attend(sdpa_attention_forward, Causal(), query, key, value, layout, sliding_window=window)
    torch.testing.assert_close(kernel(inner, Causal(), query, key, value, layout, sliding_window=window), expected)


class Kernel:
    """Stands in for flash attention's own kernels, which need a GPU, below the function of transformers."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, mask: None, **options: Any) -> Tensor:
        assert options["attn_implementation"] == "flash_attention_2"  # by which it finds its kernel
        self.calls += 1
        turned = (each.transpose(1, 2) for each in (query, key, value))
        return flash(None, *turned, mask, **{**options, "scaling": options.get("softmax_scale")})[0]


@pytest.mark.parametrize("methods", [("lora",), ("prefix",), ("prompt", "lora")], ids=str)
def test_a_model_with_flash_attention_takes_packed_batches(
    methods: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, family = Kernel(), FAMILIES["llama"]
    monkeypatch.setattr("transformers.integrations.flash_attention._flash_attention_forward", kernel)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", lambda *args, **kwargs: None)
    monkeypatch.setattr("transformers.modeling_utils.is_flash_attn_2_available", lambda: True, raising=False)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *args, **kwargs: True)
    batch = pack(examples(VOCABULARY), least=4)
    losses = []
    for implementation in ("sdpa", "flash_attention_2"):
        model: Any = family.model().double()
        model.set_attn_implementation(implementation)
        for number, method in enumerate(methods):
            stir(attach(model, ROWS[method], family, name=method), number)
        assert why_not(model) is None
        kernel.calls = 0
        with PackedModel(model).taking_packed():
            losses.append(model(packed=batch).loss)
        dt.detach(model)
        assert model.config._attn_implementation == implementation
    layers = len(model.model.layers)
    assert kernel.calls == layers * (2 if "prompt" in methods else 1)  # a soft prompt runs by itself
    torch.testing.assert_close(*losses)


def test_rows_in_front_that_would_slide_out_of_view_are_refused() -> None:
    layout = Layout.of(build([text["input_ids"] for text in examples(VOCABULARY)], least=4))
    query, key, value, front = states(layout)
    with pytest.raises(AttachError, match=f"with {FRONT} in front, which would slide out of view"):
        attend_by_lengths(flash, Causal(), query, key, value, layout, front, sliding_window=FRONT + 1)
