"""Hugging Face PEFT's files: what is read, what is refused and why, and how its settings are understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import deltatune as dt
from deltatune.errors import ConfigError, FileFormatError
from deltatune.io.files import CONFIG, TENSORS, describe
from deltatune.io.peft_layout import as_modules, as_patterns, as_targets, in_layers, short_names
from deltatune.methods import from_peft_config
from tests.models.families import FAMILIES
from tests.models.tools import assert_close, fingerprint
from tests.peers.lora import loaded, theirs

FAMILY = FAMILIES["llama"]
QV = {"target_modules": ["q_proj", "v_proj"]}
HARMLESS_START = "expected a start that leaves the base as it is"

# Settings under which a file means another function than A and B of its sites alone.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bias of B": ({**QV, "lora_bias": True}, "lora_bias: expected nothing that is unknown here, found True"),
    "trainable tokens": ({**QV, "trainable_token_indices": [1, 2]}, "trainable_token_indices: expected nothing"),
    "activated by tokens": ({**QV, "alora_invocation_tokens": [1]}, "alora_invocation_tokens: expected nothing"),
    "pissa": ({**QV, "init_lora_weights": "pissa"}, f"init_lora_weights: {HARMLESS_START}"),
    "olora": ({**QV, "init_lora_weights": "olora"}, f"init_lora_weights: {HARMLESS_START}"),
}


@pytest.mark.filterwarnings(
    "ignore:.lora_bias=True. was passed",
    "ignore:Adapter 'default'. 4 LoRA tensor.s. have invalid shape",
    "ignore:aLoRA is currently only supported",
)
@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_would_change_the_function_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = peft.get_peft_model(FAMILY.model(), peft.LoraConfig(r=4, **settings))
    model.save_pretrained(tmp_path)
    ours = FAMILY.model()
    state = fingerprint(ours)
    with pytest.raises(ConfigError, match=f"adapter_config.json: {message}") as caught:
        dt.load(ours, tmp_path)
    assert "\n" not in str(caught.value)
    assert fingerprint(ours) == state


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_replication", [[0, 1], [0, 1]]),
        ("target_parameters", ["experts.down_proj"]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("ensure_weight_tying", True),
        ("kasa_config", {"beta": 1.0}),
        ("an_option_of_the_future", "on"),
    ],
)
def test_an_entry_that_is_unknown_is_refused_if_it_says_something(name: str, value: object) -> None:
    plain = {"peft_type": "LORA", "r": 4, **QV}
    with pytest.raises(ConfigError, match=f"{name}: expected nothing that is unknown here"):
        from_peft_config(plain | {name: value})
    for nothing in (None, False, [], {}):
        from_peft_config(plain | {name: nothing})


def test_every_setting_of_a_plain_lora_is_known() -> None:
    # A new release of PEFT that adds a setting with a default that says something has to be looked at.
    config = peft.LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, **QV).to_dict()
    assert from_peft_config({**config, "peft_type": "LORA", "target_modules": sorted(QV["target_modules"])}) == dt.LoRA(
        r=4, alpha=6, dropout=0.1, targets=("q_proj", "v_proj"), train_also=()
    )


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_a_pissa_of_theirs_is_read_once_it_is_converted(tmp_path: Path) -> None:
    model: Any = peft.get_peft_model(FAMILY.model(), peft.LoraConfig(r=4, init_lora_weights="pissa", **QV))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.eval()
    expected = FAMILY.forward(model)
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    ours, delta = loaded(FAMILY, tmp_path / "converted")
    assert delta.method.r == 8  # type: ignore[attr-defined]
    assert_close(FAMILY.forward(ours), expected, share=1e-4)


def test_an_adapter_of_another_name_is_read_from_its_folder(tmp_path: Path) -> None:
    model: Any = peft.get_peft_model(FAMILY.model(), peft.LoraConfig(r=4, **QV), adapter_name="tab").eval()
    model.save_pretrained(tmp_path)
    ours, delta = loaded(FAMILY, tmp_path / "tab", name="tab")
    assert delta.name == "tab"
    assert_close(FAMILY.forward(ours), FAMILY.forward(model))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
def test_a_base_weight_that_comes_along_must_be_the_bases(tmp_path: Path) -> None:
    model = theirs(FAMILY, target_modules=["embed_tokens"])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    (key,) = (key for key in tensors if key.endswith("base_layer.weight"))
    half = FAMILY.model().to(torch.bfloat16)
    dt.load(half, tmp_path)  # rounding is no difference
    tensors[key][0, 0] += 1
    save_file(tensors, tmp_path / TENSORS)
    with pytest.raises(FileFormatError, match=r"model\.embed_tokens\.base_layer\.weight is not expected"):
        dt.load(FAMILY.model(), tmp_path)


def test_their_file_is_described_as_theirs(tmp_path: Path) -> None:
    theirs(FAMILY, **QV).save_pretrained(tmp_path)
    about = describe(tmp_path)
    assert (about.name, about.base) == ("default", None)
    assert about.method.to_config()["r"] == 4


def test_our_config_says_what_the_factors_are(tmp_path: Path) -> None:
    model = FAMILY.model()
    method = dt.LoRA(r=4, alpha=16, rank_pattern={"query": 3}, alpha_pattern={"model.layers.0.self_attn.v_proj": 5})
    dt.save(dt.attach(model, method), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"]
    layers = [f"model.layers.{n}.self_attn" for n in (0, 1)]
    sites = [f"{layer}.{leaf}" for layer in layers for leaf in ("q_proj", "v_proj")]
    ranks = [config["rank_pattern"].get(site, config["r"]) for site in sites]
    alphas = [config["alpha_pattern"].get(site, config["lora_alpha"]) for site in sites]
    assert dict(zip(sites, zip(ranks, alphas, strict=True), strict=True)) == {
        f"{layers[0]}.q_proj": (3, 16),
        f"{layers[0]}.v_proj": (4, 5),
        f"{layers[1]}.q_proj": (3, 16),
        f"{layers[1]}.v_proj": (4, 16),
    }


def test_names_are_short_only_if_they_mean_no_other_module() -> None:
    model = FAMILY.model()
    queries = [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    assert short_names(model, queries) == ["q_proj"]
    assert short_names(model, queries[:1]) == queries[:1]


def test_their_names_mean_modules_and_never_roles() -> None:
    assert as_targets(["query", "q_proj"]) == (r"(.*\.)?query", "q_proj")
    assert as_targets("all-linear") == ("all_linear",)
    assert as_targets(r".*q_proj|x") == (r"(.*q_proj|x)",)
    assert as_targets(None) == ()
    assert as_modules(["score", "a.b"]) == (r".*(score|a\.b)",)
    assert as_modules(None) == ()


def test_the_first_of_their_patterns_counts_and_the_last_of_ours() -> None:
    assert list(as_patterns({"a": 1, "b": 2}).values()) == [2, 1]


@pytest.mark.parametrize("layers", [0, [1, 3], [12]])
@pytest.mark.parametrize("pattern", ["layers", ["blocks", "layers"]])
def test_layers_of_a_named_stack_are_those_that_they_take(layers: Any, pattern: Any) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists

    from deltatune.attachment.sites import by_name

    names = [
        f"{prefix}{stack}.{n}.{leaf}"
        for prefix in ("", "model.", "model.text.")
        for stack in ("layers", "blocks", "h", "mylayers")
        for n in (0, 1, 3, 12, 13)
        for leaf in ("q_proj", "attn.q_proj", "attn.xq_proj", "experts.1.q_proj", "k_proj")
    ]
    config = peft.LoraConfig(target_modules=["q_proj"], layers_to_transform=layers, layers_pattern=pattern)
    (target,) = in_layers(("q_proj",), layers, pattern)
    assert by_name(names, target) == [name for name in names if check_target_module_exists(config, name)]
