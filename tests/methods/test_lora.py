"""LoRA against its equation, written out in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Replacement
from deltatune.errors import ConfigError
from deltatune.io.quantised import quantise
from deltatune.methods.lora import LoRA, LoRAPart
from tests.models.families import FAMILIES, SIZES, bert_config
from tests.models.tools import stir

IN, OUT, VOCABULARY = 12, 10, 15

KINDS = {
    "linear": lambda: nn.Linear(IN, OUT),
    "linear without bias": lambda: nn.Linear(IN, OUT, bias=False),
    "conv1d": lambda: Conv1D(OUT, IN),
    "embedding": lambda: nn.Embedding(VOCABULARY, OUT),
}


class Model(nn.Module):
    """One layer to adapt, called ``layer``."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.double()
        nn.init.normal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def layer_and_input(kind: str) -> tuple[Model, Tensor, Tensor]:
    """A layer, an input and that input as vectors: an embedding's ids as one-hot rows."""
    model = Model(KINDS[kind]())
    if kind == "embedding":
        ids = torch.randint(VOCABULARY, (3, 4))
        return model, ids, nn.functional.one_hot(ids, VOCABULARY).double()
    x = torch.randn(3, 4, IN, dtype=torch.float64)
    return model, x, x


def attach(model: nn.Module, **settings: Any) -> tuple[Delta, LoRAPart]:
    delta = dt.attach(model, LoRA(**{"targets": ("layer",), "r": 4, "alpha": 6, **settings}))
    part = next(part for _, part in delta.items())
    assert isinstance(part, LoRAPart)
    return delta, part


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("settings", "scale"), [({}, 6 / 4), ({"rslora": True}, 6 / 2)], ids=["plain", "rslora"])
@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal", "pissa"])
def test_the_output_is_the_equation(kind: str, settings: dict[str, Any], scale: float, init: str) -> None:
    model, x, vectors = layer_and_input(kind)
    base = model(x)
    delta, part = attach(model, init=init, **settings)
    start = torch.zeros(OUT, vectors.shape[-1], dtype=torch.float64)
    if init == "pissa":
        start = part.lora_B.detach() @ part.lora_A.detach()
    torch.testing.assert_close(model(x), base)
    stir(delta)
    change = part.lora_B @ part.lora_A - start
    torch.testing.assert_close(model(x), base + scale * vectors @ change.T)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_those_of_the_equation(kind: str) -> None:
    model, x, vectors = layer_and_input(kind)
    delta, part = attach(model)
    stir(delta)
    with dt.disabled(model):
        base = model(x)
    target = torch.randn_like(base)
    found = torch.autograd.grad((model(x) - target).pow(2).sum(), [part.lora_A, part.lora_B])
    written = base + 1.5 * vectors @ part.lora_A.T @ part.lora_B.T
    expected = torch.autograd.grad((written - target).pow(2).sum(), [part.lora_A, part.lora_B])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_default_start_is_kaiming_uniform_and_zero() -> None:
    model = Model(nn.Linear(400, 30))
    _, part = attach(model, r=50)
    A, bound = part.lora_A.detach(), 1 / math.sqrt(400)
    assert A.abs().max() <= bound
    assert A.abs().max() > 0.99 * bound
    assert abs(A.std() / (bound / math.sqrt(3)) - 1) < 0.02
    assert not part.lora_B.any()


def test_the_gaussian_start_has_a_deviation_of_one_over_r() -> None:
    _, part = attach(Model(nn.Linear(800, 30)), r=50, init="gaussian")
    assert abs(part.lora_A.detach().std() * 50 - 1) < 0.02
    assert not part.lora_B.any()


def test_the_start_at_an_embedding_is_zero_and_normal() -> None:
    for init in ("default", "gaussian"):
        _, part = attach(Model(nn.Embedding(15, 800)), r=10, init=init)
        assert not part.lora_A.any()
        assert abs(part.lora_B.detach().std() - 1) < 0.03


def test_the_orthogonal_start_has_two_factors_whose_product_is_zero() -> None:
    _, part = attach(Model(nn.Linear(IN, OUT)), r=6, init="orthogonal")
    A, B = part.lora_A.detach(), part.lora_B.detach()
    assert torch.linalg.matrix_rank(A) == torch.linalg.matrix_rank(B) == 3
    assert (B @ A).abs().max() < 1e-12 < 1e-3 < A.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_pissa_starts_as_the_largest_singular_directions(kind: str) -> None:
    model, _, _ = layer_and_input(kind)
    _, part = attach(model, r=3, init="pissa")
    W: Any = model.layer.weight.detach()
    W = W if kind.startswith("linear") else W.T
    A, B = part.lora_A.detach(), part.lora_B.detach()
    # The nearest matrix of rank 3, which is unique, shared evenly between the factors.
    values, directions = torch.linalg.eigh(W.T @ W)
    best = W @ directions[:, -3:] @ directions[:, -3:].T
    torch.testing.assert_close(part.scale * B @ A, best)
    even = torch.diag(values[-3:].flip(0).sqrt()) / part.scale
    torch.testing.assert_close(A @ A.T, even)
    torch.testing.assert_close(B.T @ B, even)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_is_a_plain_lora_of_twice_the_rank_in_a_file(kind: str, rslora: bool) -> None:
    model, _, _ = layer_and_input(kind)
    delta, part = attach(model, r=3, init="pissa", rslora=rslora)
    start = part.lora_B.detach() @ part.lora_A.detach()
    stir(delta)
    A, B = part.export(model.layer).values()
    assert (A.shape[0], B.shape[1]) == (6, 6)
    config = delta.method.peft_config(model, delta)
    assert config["r"] == 6
    scale = config["lora_alpha"] / (math.sqrt(6) if rslora else 6)
    torch.testing.assert_close(scale * B @ A, part.scale * (part.lora_B @ part.lora_A - start).detach())


@pytest.mark.parametrize("patterns", [{"rank_pattern": {"q_proj": 2, r".*layers\.1\..*": 6}}, {}])
def test_patterns_give_some_sites_another_rank_and_alpha_and_the_last_counts(patterns: dict[str, Any]) -> None:
    model = FAMILIES["llama"].model()
    method = LoRA(r=4, alpha=6, alpha_pattern={"value": 1, "model.layers.0.self_attn.v_proj": 10}, **patterns)
    parts = {name: part for name, part in dt.attach(model, method).items() if isinstance(part, LoRAPart)}
    ranks = [2, 4, 6, 6] if patterns else [4, 4, 4, 4]
    assert [part.lora_A.shape[0] for part in parts.values()] == ranks
    assert [part.scale * part.r for part in parts.values()] == pytest.approx([6, 10, 6, 1])


def test_a_pattern_that_names_no_site_is_refused() -> None:
    model = FAMILIES["llama"].model()
    with pytest.raises(ConfigError, match="lora pattern 'mlp_down': expected a target among the sites, found none"):
        dt.attach(model, LoRA(rank_pattern={"mlp_down": 2}))
    dt.attach(model, LoRA(rank_pattern={r".*down_proj": 2}))  # a regular expression may match nothing


def test_dropout_is_for_training_alone() -> None:
    model, x, _ = layer_and_input("linear")
    delta, _ = attach(model, dropout=0.5)
    stir(delta)
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    torch.manual_seed(1)
    first = model(x)
    torch.manual_seed(1)
    assert torch.equal(model(x), first)


def test_a_token_that_is_padding_learns_nothing() -> None:
    model = Model(nn.Embedding(VOCABULARY, OUT, padding_idx=2))
    delta, part = attach(model)
    stir(delta)
    ids = torch.tensor([[1, 2, 2, 5]])
    model(ids).pow(2).sum().backward()
    assert part.lora_A.grad is not None
    reached = part.lora_A.grad.abs().sum(dim=0) > 0
    assert reached.nonzero().flatten().tolist() == [1, 5]


@pytest.mark.parametrize(
    ("make", "scale"),
    [
        (
            lambda: transformers.models.bart.modeling_bart.BartScaledWordEmbedding(VOCABULARY, OUT, 1, embed_scale=3.0),
            3.0,
        ),
        (
            lambda: transformers.models.gemma3.modeling_gemma3.Gemma3TextScaledWordEmbedding(
                VOCABULARY, OUT, 1, embed_scale=3.0
            ),
            3.0,
        ),
    ],
    ids=["bart", "gemma"],
)
def test_an_embedding_that_scales_its_rows_scales_the_change_too(make: Any, scale: float) -> None:
    model, ids = Model(make()), torch.randint(VOCABULARY, (3, 4))
    base = model(ids)
    delta, part = attach(model)
    stir(delta)
    change = (part.lora_B @ part.lora_A).T[ids]
    torch.testing.assert_close(model(ids), base + scale * 1.5 * change)
    found = model(ids)
    dt.merge(model)
    torch.testing.assert_close(model(ids), found)


def test_an_embedding_that_computes_its_ids_is_no_site() -> None:
    # OPT looks its positions up by the attention mask: what comes in are no rows of the table.
    model = transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, ffn_dim=8, word_embed_proj_dim=8
        )
    )
    with pytest.raises(ConfigError, match="'embed_positions' is OPTLearnedPositionalEmbedding, expected Linear"):
        dt.attach(model, LoRA(targets=("embed_positions",)))
    dt.attach(model, LoRA(targets=("embedding",)))


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_biases_are_trained_as_asked(bias: Any) -> None:
    model = FAMILIES["bert"].model()
    delta = dt.attach(model, LoRA(targets=("query", "value"), bias=bias, train_also=()))
    trained = {name for name, _ in delta.named_parameters() if name.endswith("delta")}
    with_bias = [n for n, _ in model.named_parameters() if n.endswith("bias") and not n.startswith("deltatune.")]
    expected = {"none": 0, "lora_only": 2 * 2, "all": len(with_bias)}
    assert len(trained) == expected[bias]
    base = FAMILIES["bert"].forward(model)
    stir(delta)
    for _, part in delta.items():
        if isinstance(part, LoRAPart):
            nn.init.zeros_(part.lora_B)
    found = FAMILIES["bert"].forward(model)
    assert torch.equal(found, base) == (bias == "none")


def test_smollm2_and_llama_7b_have_as_many_numbers_as_are_known() -> None:
    smollm2 = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**smollm2, intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True)
        )
    queries = dt.attach(model, LoRA(r=8, targets=("query", "value")), name="queries")
    linear = dt.attach(model, LoRA(r=8, targets=("all_linear",)), name="linear")
    assert (queries.size, linear.size) == (460_800, 2_442_240)
    found = dt.summary(model)
    assert found.base_parameters == 134_515_008
    assert [round(row.share, 4) for row in found.deltas] == [0.0034, 0.0182]

    feed_forward = nn.Module()
    feed_forward.up_proj = nn.Linear(4096, 11008, bias=False, device="meta")
    assert dt.attach(feed_forward, LoRA(r=4, targets=("up_proj",))).size == 60_416
    assert round(dt.summary(feed_forward).deltas[0].share, 5) == 0.00134


def test_a_head_that_is_trained_whole_is_so_beside_all_biases() -> None:
    delta = dt.attach(FAMILIES["bert"].model(), LoRA(targets=("query",), bias="all"))
    assert isinstance(dict(delta.items())["classifier"], Replacement)


def test_a_head_with_factors_of_its_own_has_all_its_biases_trained() -> None:
    model = transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**SIZES))
    delta = dt.attach(model, LoRA(targets=("query", "dense"), bias="all"))
    assert {"classifier.dense", "classifier.out_proj"} <= dict(delta.items()).keys()


def test_a_packed_head_is_refused() -> None:
    pytest.importorskip("bitsandbytes")
    model = transformers.BertForSequenceClassification(bert_config())
    quantise(model, "nf4")
    model.classifier = model.bert.pooler.dense
    with pytest.raises(ConfigError, match="module 'classifier' is packed, so it can not be trained whole"):
        dt.attach(model, LoRA(targets=("query",)))
