"""Where a delta acts: the semantic names of every family, and what is said when a target means nothing."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from deltatune.attachment.sites import ROLES, base_modules, find_modules, find_sites, fresh_heads
from deltatune.errors import SiteError
from tests.models.families import DECODER, FAMILIES, bert_config

# For each family, a module's name in each layer. Written from the models' own code, not from what is found.
BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "mlp_up": "intermediate.dense",
    "mlp_down": "output.dense",
}
LLAMA = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.o_proj",
    "mlp_gate": "mlp.gate_proj",
    "mlp_up": "mlp.up_proj",
    "mlp_down": "mlp.down_proj",
}
GPT2 = {"attention_output": "attn.c_proj", "mlp_up": "mlp.c_fc", "mlp_down": "mlp.c_proj"}
VIT = {
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "attention_output": "attention.o_proj",
    "mlp_up": "mlp.fc1",
    "mlp_down": "mlp.fc2",
}
CLIP = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "attention_output": "self_attn.out_proj",
    "mlp_up": "mlp.fc1",
    "mlp_down": "mlp.fc2",
}
STACKS = {
    "bert": (BERT, ["bert.encoder.layer"]),
    "bert-mlm": (BERT, ["bert.encoder.layer"]),
    "llama": (LLAMA, ["model.layers"]),
    "qwen2": (LLAMA, ["model.layers"]),
    "qwen3": (LLAMA, ["model.layers"]),
    "gpt2": (GPT2, ["transformer.h"]),
    "vit": (VIT, ["vit.layers"]),
    "clip": (CLIP, ["text_model.encoder.layers", "vision_model.encoder.layers"]),
}


def t5(role: str, gated: bool) -> list[str]:
    leaf = {"query": "q", "key": "k", "value": "v", "attention_output": "o"}.get(role)
    up = {"mlp_up": "wi_1", "mlp_gate": "wi_0", "mlp_down": "wo"} if gated else {"mlp_up": "wi", "mlp_down": "wo"}
    if leaf:
        encoder, decoder = [f"layer.0.SelfAttention.{leaf}"], [f"layer.0.SelfAttention.{leaf}"]
        decoder.append(f"layer.1.EncDecAttention.{leaf}")
    else:
        encoder, decoder = [f"layer.1.DenseReluDense.{up[role]}"], [f"layer.2.DenseReluDense.{up[role]}"]
    return [
        f"{stack}.block.{n}.{m}"
        for stack, ms in (("encoder", encoder), ("decoder", decoder))
        for n in (0, 1)
        for m in ms
    ]


def names(family: str, *targets: str, **how: object) -> list[str]:
    return [site.name for site in find_sites(FAMILIES[family].model(), targets, **how)]  # type: ignore[arg-type]


@pytest.mark.parametrize("family", STACKS)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_these_modules_of_each_layer(family: str, role: str) -> None:
    leaves, stacks = STACKS[family]
    if role in leaves:
        assert names(family, role) == [f"{stack}.{n}.{leaves[role]}" for stack in stacks for n in (0, 1)]
    else:
        with pytest.raises(SiteError):
            names(family, role)


@pytest.mark.parametrize("family", ["t5", "t5-gated"])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_these_modules_of_both_stacks_of_t5(family: str, role: str) -> None:
    if role == "mlp_gate" and family == "t5":
        with pytest.raises(SiteError, match="expected modules of that role in T5ForConditionalGeneration, found none"):
            names(family, role)
    else:
        assert names(family, role) == t5(role, gated=family == "t5-gated")


def test_a_role_is_these_modules_of_each_block_of_a_unet() -> None:
    blocks = ["down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]
    blocks = [f"{block}.transformer_blocks.0" for block in [*blocks, "mid_block.attentions.0"]]
    for role, leaf in {"query": "to_q", "key": "to_k", "value": "to_v", "attention_output": "to_out.0"}.items():
        assert names("unet", role) == [f"{block}.{attn}.{leaf}" for block in blocks for attn in ("attn1", "attn2")]
    assert names("unet", "mlp_up") == [f"{block}.ff.net.0.proj" for block in blocks]
    assert names("unet", "mlp_down") == [f"{block}.ff.net.2" for block in blocks]


# The linear modules of a layer times the layers, and what stands beside them; never a head.
ALL_LINEAR = {
    "bert": 6 * 2 + 1,
    "bert-mlm": 6 * 2 + 1,
    "t5": 6 * 2 + 10 * 2,
    "t5-gated": 7 * 2 + 11 * 2,
    "llama": 7 * 2,
    "qwen2": 7 * 2,
    "qwen3": 7 * 2,
    "gpt2": 4 * 2,
    "vit": 6 * 2,
    "clip": 6 * 4 + 2,
    "unet": 10 * 4 + 8 + 2,
}
EMBEDDINGS = {
    "bert": ["bert.embeddings.word_embeddings"],
    "bert-mlm": ["bert.embeddings.word_embeddings"],
    "t5": ["encoder.embed_tokens", "decoder.embed_tokens"],
    "t5-gated": ["encoder.embed_tokens", "decoder.embed_tokens"],
    "llama": ["model.embed_tokens"],
    "qwen2": ["model.embed_tokens"],
    "qwen3": ["model.embed_tokens"],
    "gpt2": ["transformer.wte"],
    "clip": ["text_model.embeddings.token_embedding"],
}


@pytest.mark.parametrize("family", ALL_LINEAR)
def test_all_linear_is_every_linear_module_but_the_head(family: str) -> None:
    found = names(family, "all_linear")
    assert len(found) == ALL_LINEAR[family]
    assert not {name.partition(".")[0] for name in found} & {"classifier", "lm_head"}
    assert "cls.predictions.decoder" not in found


@pytest.mark.parametrize("family", EMBEDDINGS)
def test_the_embedding_is_what_turns_tokens_into_vectors(family: str) -> None:
    assert names(family, "embedding") == EMBEDDINGS[family]


@pytest.mark.parametrize("family", ["vit", "unet"])
def test_a_model_without_tokens_has_no_embedding(family: str) -> None:
    with pytest.raises(SiteError, match="target 'embedding': expected modules of that role"):
        names(family, "embedding")


@pytest.mark.parametrize(
    ("family", "heads"),
    [
        ("bert", ["classifier"]),
        ("vit", ["classifier"]),
        *((n, []) for n in ("bert-mlm", "t5", "llama", "gpt2", "clip", "unet")),
    ],
)
def test_a_head_made_for_a_task_is_told_from_a_pretrained_one(family: str, heads: list[str]) -> None:
    assert [site.name for site in fresh_heads(FAMILIES[family].model())] == heads


@pytest.mark.parametrize("role", ["query", "key", "value"])
def test_one_role_of_a_fused_matrix_is_refused_and_all_of_them_are_the_matrix(role: str) -> None:
    with pytest.raises(SiteError) as caught:
        names("gpt2", role)
    assert str(caught.value) == (
        f"target '{role}': this model keeps key, query, value in one matrix, 'c_attn' (2 of them), so one alone can "
        "not be adapted; target 'c_attn', or all of key, query, value"
    )
    assert names("gpt2", "value", "key", "query") == [f"transformer.h.{n}.attn.c_attn" for n in (0, 1)]
    assert names("gpt2", "c_attn") == names("gpt2", "value", "key", "query")


def test_a_target_is_a_name_the_end_of_one_or_a_pattern_for_the_whole() -> None:
    q = [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    assert names("llama", "q_proj") == names("llama", "self_attn.q_proj") == q
    assert names("llama", q[1]) == q[1:]
    assert names("llama", r".*layers\.[1-9]\..*q_proj") == q[1:]
    assert names("llama", r".*\.(q|k)_proj") == sorted(names("llama", "query", "key"), key=lambda n: n.split(".")[2])
    with pytest.raises(SiteError, match="matches no module"):  # the end of a part of a name is not enough
        names("llama", "_proj")
    with pytest.raises(SiteError, match="matches no module"):  # nor is a pattern for a part
        names("llama", r"q_proj$x|q_pro\w")


def test_sites_come_once_each_in_the_order_of_the_tree() -> None:
    expected = [name for name, _ in base_modules(FAMILIES["llama"].model()) if name.endswith(("q_proj", "v_proj"))]
    assert names("llama", "value", "query", "q_proj", expected[0]) == expected


def test_what_is_excluded_is_left_out_with_all_inside_it() -> None:
    assert names("llama", "query", exclude="model.layers.0.self_attn.q_proj") == ["model.layers.1.self_attn.q_proj"]
    assert names("t5", "query", exclude=("decoder",)) == t5("query", gated=False)[:2]
    assert names("t5", "query", exclude=("EncDecAttention",)) == [n for n in t5("query", False) if "EncDec" not in n]
    assert names("llama", "all_linear", exclude=("mlp_gate", "mlp_up", "mlp_down")) == names(
        "llama", "query", "key", "value", "attention_output"
    )
    with pytest.raises(SiteError, match="found 2 before layers and exclude and none after"):
        names("llama", "query", exclude="query")
    with pytest.raises(SiteError, match="'nowhere' matches no module"):
        names("llama", "query", exclude="nowhere")


@pytest.mark.parametrize(
    ("target", "near"), [("q_prj", "'q_proj'"), ("querry", "'query'"), ("self_attn.v_prj", "'self_attn.v_proj'")]
)
def test_a_misspelt_target_gets_the_nearest_names(target: str, near: str) -> None:
    with pytest.raises(SiteError, match=rf"target '{target}' matches no module; the nearest names are .*{near}"):
        names("llama", target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("mlp", "target 'mlp' is LlamaMLP, expected Linear.*such as 'model.layers.0.mlp.gate_proj'"),
        ("model.norm", "target 'model.norm' is LlamaRMSNorm, expected Linear.*choose a module of such a kind"),
        ("q_proj(", r"target 'q_proj\(' is no regular expression: .*; write a module name or mend it"),
    ],
)
def test_a_target_that_can_not_be_adapted_says_what_it_is(target: str, expected: str) -> None:
    with pytest.raises(SiteError, match=expected):
        names("llama", target)


def test_whole_modules_are_found_by_any_name_if_they_have_parameters() -> None:
    model = FAMILIES["bert"].model()
    assert [site.name for site in find_modules(model, ["classifier", "LayerNorm"])] == [
        name for name, _ in base_modules(model) if name.endswith("LayerNorm") or name == "classifier"
    ]
    with pytest.raises(SiteError, match=r"'dropout' .Dropout. has no parameters"):
        find_modules(model, [r"dropout|classifier"])


def test_a_module_under_two_names_is_one_site() -> None:
    # Hooked under each of them it would be adapted twice.
    model = nn.Module()
    model.first = nn.Sequential(nn.Linear(3, 3))
    model.other = model.first
    assert [site.name for site in find_sites(model, ("0",))] == ["first.0"]


def test_a_projection_that_is_never_called_is_no_site() -> None:
    # torch computes its attention from the weight; a hook there would never run and the delta never learn.
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 8)})
    assert [site.name for site in find_sites(model, ("all_linear",))] == ["head"]
    with pytest.raises(SiteError, match="is NonDynamicallyQuantizableLinear, expected Linear"):
        find_sites(model, ("out_proj",))


OTHERS = {
    "DistilBertForMaskedLM": (transformers.DistilBertConfig(n_layers=2), (2, 2, 2)),
    "RobertaForSequenceClassification": (transformers.RobertaConfig(num_hidden_layers=2), (2, 2, 2)),
    "DebertaV2ForSequenceClassification": (transformers.DebertaV2Config(num_hidden_layers=2), (2, 2, 2)),
    "AlbertForMaskedLM": (transformers.AlbertConfig(num_hidden_layers=2), (1, 1, 1)),  # its layers share weights
    "OPTForCausalLM": (transformers.OPTConfig(num_hidden_layers=2), (2, 2, 2)),
    "GPTJForCausalLM": (transformers.GPTJConfig(n_layer=2), (2, 2, 2)),
    "BartForConditionalGeneration": (transformers.BartConfig(encoder_layers=2, decoder_layers=2), (6, 6, 4)),
    "WhisperForConditionalGeneration": (transformers.WhisperConfig(encoder_layers=2, decoder_layers=2), (6, 6, 4)),
    "MistralForCausalLM": (transformers.MistralConfig(**DECODER), (2, 2, 2)),
    "Gemma2ForCausalLM": (transformers.Gemma2Config(**DECODER, head_dim=8), (2, 2, 2)),
    "Starcoder2ForCausalLM": (transformers.Starcoder2Config(**DECODER), (2, 2, 2)),
}


@pytest.mark.parametrize("architecture", OTHERS)
def test_other_architectures_have_the_roles_too(architecture: str) -> None:
    config, counts = OTHERS[architecture]
    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    found = tuple(len(find_sites(model, (role,))) for role in ("query", "attention_output", "mlp_down"))
    assert found == counts
    assert all(len(find_sites(model, (role,))) == counts[0] for role in ("key", "value"))


@pytest.mark.parametrize("name", ["bloom", "falcon", "phi3", "gpt_neox", "codegen", "mpt", "modernbert"])
def test_other_fused_projections_are_known(name: str) -> None:
    config = transformers.CONFIG_MAPPING[name]()
    for attribute in ("num_hidden_layers", "n_layer", "n_layers"):
        if hasattr(config, attribute):
            setattr(config, attribute, 2)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    with pytest.raises(SiteError, match="in one matrix"):
        find_sites(model, ("query",))
    assert len(find_sites(model, ("query", "key", "value"))) == 2
    assert len(find_sites(model, ("attention_output",))) == 2


def test_the_head_of_a_classifier_with_a_pooler_outside_its_trunk_is_both() -> None:
    config = transformers.DebertaV2Config(num_hidden_layers=1, pooler_hidden_size=768)
    with torch.device("meta"):
        model = transformers.DebertaV2ForSequenceClassification(config)
    assert [site.name for site in fresh_heads(model)] == ["pooler", "classifier"]
    assert [site.name for site in fresh_heads(transformers.BertModel(bert_config()))] == []
