"""Methods of Hugging Face PEFT through deltatune, against PEFT itself: the same answers, gradients and files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import deltatune as dt
from deltatune import methods
from deltatune.attachment.delta import Delta
from deltatune.errors import AttachError, ConfigError, MergeError
from deltatune.methods.peft import PeftMethod
from tests.methods.test_child import Rows
from tests.methods.training import losses, with_peft
from tests.models.families import FAMILIES, Family, bert_config
from tests.models.tools import assert_bit_identical, families, fingerprint, stir, values

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's remarks on kinds of layers and lacking kernels

TARGETS = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"], "gpt2": ["c_attn"], "t5": ["q", "v"]}

CONFIGS: dict[str, Callable[[list[str]], Any]] = {
    "vera": lambda targets: peft.VeraConfig(r=4, target_modules=targets, d_initial=1.0),
    "vera-seeded": lambda targets: peft.VeraConfig(r=4, target_modules=targets, save_projection=False),
    "oft": lambda targets: peft.OFTConfig(oft_block_size=8, target_modules=targets),
    "boft": lambda targets: peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, target_modules=targets),
    "loha": lambda targets: peft.LoHaConfig(r=4, alpha=8, target_modules=targets),
    "lokr": lambda targets: peft.LoKrConfig(r=4, alpha=8, target_modules=targets),
    "hra": lambda targets: peft.HRAConfig(r=4, target_modules=targets),
    "shira": lambda targets: peft.ShiraConfig(r=4, target_modules=targets, random_seed=3),
    "miss": lambda targets: peft.MissConfig(r=4, target_modules=targets),
    "fourierft": lambda targets: peft.FourierFTConfig(n_frequency=20, target_modules=targets),
    "vblora": lambda targets: peft.VBLoRAConfig(r=2, num_vectors=16, vector_length=8, target_modules=targets),
    "randlora": lambda targets: peft.RandLoraConfig(r=4, target_modules=targets),
    "lora": lambda targets: peft.LoraConfig(r=4, target_modules=targets, init_lora_weights="gaussian"),
}
every_config = pytest.mark.parametrize("kind", CONFIGS)
STARTS_ELSEWHERE = ("fourierft", "vblora")
"""Whose fresh weights are not the base's, in PEFT as here."""


def config(kind: str, family: Family) -> Any:
    return CONFIGS[kind](TARGETS[family.name])


def through_peft(kind: str, family: Family, **settings: Any) -> PeftMethod:
    return PeftMethod(config=config(kind, family), train_also=(), **settings)


def attach(model: nn.Module, kind: str, family: Family, name: str = "default", seed: int | None = None) -> Delta:
    torch.manual_seed(4)
    delta = dt.attach(model, through_peft(kind, family), name=name)
    return delta if seed is None else stir(delta, seed, size=0.1)


def theirs(kind: str, family: Family) -> Any:
    """PEFT's own; a test is skipped where it can not do it, for the reason it gives."""
    torch.manual_seed(4)
    try:
        model = with_peft(family, config(kind, family))
        family.forward(model)
    except Exception as error:
        pytest.skip(f"PEFT itself: {error}")
    return model


def trained_parameters(model: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@families("llama", "bert")
@every_config
def test_starts_as_in_peft_and_leaves_the_base_alone(kind: str, family: Family) -> None:
    expected = family.forward(theirs(kind, family))
    model = family.model()
    before, state, base = values(model), fingerprint(model), family.forward(model)
    delta = attach(model, kind, family)
    assert torch.equal(family.forward(model), expected)
    if kind not in STARTS_ELSEWHERE:
        torch.testing.assert_close(expected, base, rtol=1e-5, atol=1e-5)
    assert {site.rpartition(".")[2] for site in delta.sites} == set(TARGETS[family.name])
    assert delta.size == sum(p.numel() for n, p in delta.named_parameters())
    assert_bit_identical(values(model), before)
    assert [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith("deltatune.")] == []
    assert list(model.state_dict()) == state["keys"]
    stir(delta)
    with dt.disabled(model):
        assert torch.equal(family.forward(model), base)
    assert not torch.equal(family.forward(model), base)
    dt.detach(model)
    assert_bit_identical(values(model), before)
    assert fingerprint(model) == state


@families("llama", "bert")
@every_config
def test_peft_reads_the_file_and_has_the_same_answers_and_gradients(kind: str, family: Family, tmp_path: Path) -> None:
    theirs(kind, family)
    model = family.model()
    delta = attach(model, kind, family, seed=1)
    expected = family.forward(model)
    dt.save(delta, tmp_path)
    peer = with_peft(family, tmp_path)
    assert torch.equal(family.forward(peer), expected)

    family.loss(model).backward()
    family.loss(peer).backward()
    ours = trained_parameters(next(part.tuned for _, part in delta.items()))
    assert ours.keys() == trained_parameters(peer).keys()
    for name, parameter in trained_parameters(peer).items():
        torch.testing.assert_close(ours[name].grad, parameter.grad, msg=lambda text, name=name: f"{name}: {text}")


@families("llama", "bert")
@every_config
def test_a_file_of_peft_is_read_and_a_file_of_ours_comes_back(kind: str, family: Family, tmp_path: Path) -> None:
    peer = theirs(kind, family)
    with torch.no_grad():
        for parameter in trained_parameters(peer).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    expected = family.forward(peer)
    peer.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    if kind == "lora":
        assert dt.load(family.model(), tmp_path / "theirs").method.key == "lora"  # deltatune's own reads it
        return
    model = family.model()
    delta = dt.load(model, tmp_path / "theirs", trainable=True)
    assert delta.method.key == "peft"
    assert torch.equal(family.forward(model), expected)
    dt.save(delta, tmp_path / "ours")
    one, other = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("theirs", "ours"))
    assert_bit_identical(other, one)

    again = family.model()
    assert not dt.load(again, tmp_path / "ours", name="again").is_trainable
    assert torch.equal(family.forward(again), expected)


@families("llama", "bert")
@every_config
def test_merged_and_routed_where_trying_finds_that_it_can_be(kind: str, family: Family) -> None:
    theirs(kind, family)
    model = family.model()
    base, before = family.forward(model), values(model)
    delta = attach(model, kind, family, "a", seed=1)
    changed = family.forward(model)
    found = dt.capabilities(delta)
    assert found.keys() == {"train", "save", "peft", "route", "merge"}
    assert (found["train"], found["save"], found["peft"]) == (None, None, None)
    assert torch.equal(family.forward(model), changed)

    assert found["merge"] is None
    dt.merge(model)
    torch.testing.assert_close(family.forward(model), changed, rtol=1e-4, atol=1e-4)
    dt.unmerge(model)
    dt.merge(model, {"a": 0.5})
    dt.unmerge(model)
    assert_bit_identical(values(model), before)
    assert torch.equal(family.forward(model), changed)

    assert found["route"] is None
    with dt.routed(model, ["a", None, "a"]):
        rows = family.forward(model)
    torch.testing.assert_close(rows, torch.stack([changed[0], base[1], changed[2]]))


@families("llama", "bert")
@every_config
def test_acts_beside_other_deltas_and_all_train(kind: str, family: Family) -> None:
    theirs(kind, family)
    model = family.model().double()
    base = family.forward(model)
    targets = tuple(TARGETS[family.name])
    lora = stir(dt.attach(model, dt.LoRA(targets=targets, train_also=()), name="lora"), seed=2)
    only_lora = family.forward(model)
    one = attach(model, kind, family, "one", seed=1)
    two = attach(model, kind, family, "two", seed=2)
    three = family.forward(model)

    # At one site: each adds what it changes of the base's own answer.
    site = one.sites[0]
    module, x = model.get_submodule(site), torch.randn(2, 3, 32, dtype=torch.float64)
    found, alone = module(x), []
    for delta in (lora, one, two):
        for other in (lora, one, two):
            other.enabled = other is delta
        alone.append(module(x) - module.forward(x))
    torch.testing.assert_close(found, module.forward(x) + sum(alone), rtol=1e-5, atol=1e-6)

    for delta in (lora, one, two):
        delta.enabled = True
    family.loss(model).backward()
    for delta in (lora, one, two):
        assert any(p.grad is not None and bool(p.grad.any()) for p in delta.parameters()), delta.name
    for order in (("one", "two"), ("two", "one")):
        copied = copy.deepcopy(model)
        assert torch.equal(family.forward(copied), three)
        for name in order:
            dt.detach(copied, name)
        assert torch.equal(family.forward(copied), only_lora)
    dt.detach(model)
    assert torch.equal(family.forward(model), base)


@families("llama")
@every_config
def test_it_learns(kind: str, family: Family) -> None:
    theirs(kind, family)
    model = family.model()
    attach(model, kind, family)
    before, after = losses(family, model, lr=0.1 if kind.startswith("vera") else 0.03, steps=20)
    assert after < 0.97 * before


@families("llama")
@pytest.mark.parametrize("kind", ["vera", "oft", "randlora"])
def test_checkpointed_layers_give_the_same_gradients(kind: str, family: Family) -> None:
    model = family.model()
    delta = attach(model, kind, family, seed=1)
    family.loss(model.train()).backward()
    expected = {name: p.grad.clone() for name, p in delta.named_parameters()}
    delta.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": False})
    family.loss(model).backward()
    for name, p in delta.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
    attach(model, kind, family, "under checkpointing")


@families("gpt2", "t5")
@pytest.mark.parametrize("kind", ["vera", "fourierft", "randlora"])
def test_other_families_and_transposed_weights(kind: str, family: Family, tmp_path: Path) -> None:
    model = family.model()
    targets = ("c_attn",) if family.name == "gpt2" else ("query", "value")
    delta = stir(dt.attach(model, through_peft(kind, family, targets=targets)), size=0.1)
    expected = family.forward(model)
    dt.save(delta, tmp_path)
    assert torch.equal(family.forward(with_peft(family, tmp_path)), expected)
    expected = family.forward(model.double())  # RandLoRA's wide random bases round by 5e-4 in float32
    dt.merge(model)
    torch.testing.assert_close(family.forward(model), expected, rtol=1e-9, atol=1e-9)


def test_convolutions() -> None:
    family = FAMILIES["unet"]
    model = family.model()
    base = family.forward(model)
    delta = dt.attach(model, peft.LoHaConfig(r=2, target_modules=["conv1", "to_q"]))
    torch.testing.assert_close(family.forward(model), base)
    assert any(isinstance(model.get_submodule(site), nn.Conv2d) for site in delta.sites)
    stir(delta)
    assert (family.forward(model) - base).abs().max() > 1e-3
    dt.detach(model)
    assert torch.equal(family.forward(model), base)


# Runs.


@pytest.mark.parametrize("kind", ["vblora", "vera", "oft"])
def test_a_resumed_run_is_the_same_though_layers_share_tensors(kind: str, tmp_path: Path) -> None:
    def trainer() -> dt.Trainer:
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(bert_config())
        dt.attach(model, config(kind, FAMILIES["bert"]))
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=4, save_steps=2, learning_rate=0.01, report_to=[], use_cpu=True
        )
        return dt.Trainer(model=model, args=arguments, train_dataset=Rows())

    whole = trainer()
    whole.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    one, other = (dict(dt.deltas(t.model)["default"].state_dict()) for t in (whole, resumed))
    assert_bit_identical(other, one)
    assert "classifier" in dt.deltas(whole.model)["default"].sites  # a fresh head trains beside, as with any method


def test_a_budget_that_is_shared_out_after_steps_is_asked_for() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    settings = {"use_asa": True, "asa_target_subspaces": 2, "init_warmup": 0, "final_warmup": 10, "mask_interval": 1}
    known = {field: value for field, value in settings.items() if hasattr(peft.AdamssConfig(), field)}
    delta = dt.attach(model, peft.AdamssConfig(r=4, target_modules=["q_proj"], **known))
    asked: list[int] = []
    tuner = next(part.tuned for _, part in delta.items()).base_model
    tuner.update_and_allocate = asked.append
    optimizer = torch.optim.SGD(dt.parameter_groups(model, 0.1))
    dt.on_step(model, optimizer)
    for _ in range(3):
        family.loss(model).backward()
        optimizer.step()
    assert asked == [0, 1, 2]


# What a config becomes.


def test_a_config_becomes_the_native_method_where_there_is_one() -> None:
    assert methods.as_method(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])) == dt.LoRA(
        r=4, alpha=8, targets=("q_proj",)
    )
    assert methods.as_method(peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])).key == "ia3"
    with_head = methods.as_method(peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["head"]))
    assert with_head.train_also is not None
    assert "head" in with_head.train_also[0]
    assert methods.as_method(peft.LoraConfig(target_modules=["q_proj"], init_lora_weights="gaussian")).key == "peft"
    assert methods.as_method(peft.LoraConfig(target_modules=["q_proj"], lora_bias=True)).key == "peft"
    assert methods.as_method(PeftMethod(config=peft.LoraConfig(target_modules=["q_proj"]))).key == "peft"
    assert methods.as_method({"method": "lora", "r": 2}) == dt.LoRA(r=2)
    assert methods.as_method(dt.LoRA()) == dt.LoRA()
    for thing in ("lora", None, object()):
        with pytest.raises(ConfigError, match="or a config of PEFT, found"):
            methods.as_method(thing)


def test_a_config_is_kept_as_the_plain_data_that_differ_from_the_defaults() -> None:
    method = PeftMethod(config=peft.OFTConfig(r=0, oft_block_size=8, target_modules={"b", "a"}, inference_mode=True))
    assert method.to_config() == {
        "method": "peft",
        "config": {"peft_type": "OFT", "oft_block_size": 8, "target_modules": ["a", "b"]},
    }
    assert json.loads(json.dumps(method.to_config())) == method.to_config()
    assert methods.from_config(method.to_config()) == method


def test_targets_of_ours_name_the_sites() -> None:
    model = FAMILIES["bert"].model()
    delta = dt.attach(model, PeftMethod(config={"peft_type": "LOHA"}, targets=("query", "mlp_up"), layers=0))
    assert [site for site in delta.sites if site != "classifier"] == [
        "bert.encoder.layer.0.attention.self.query",
        "bert.encoder.layer.0.intermediate.dense",
    ]
    assert "classifier" in delta.sites


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (peft.PromptTuningConfig(num_virtual_tokens=4), ConfigError, "which prepends to the input"),
        ({"peft_type": "NONE"}, ConfigError, "peft_type: expected one of"),
        ({"r": 8}, ConfigError, "with peft_type"),
        ({"peft_type": "OFT", "unheard_of": 1}, ConfigError, "entries that PEFT knows"),
        ({"peft_type": "OFT", "r": 4, "oft_block_size": 4}, ConfigError, "a config that PEFT takes, found"),
        (peft.OFTConfig(target_modules=["nowhere"]), AttachError, "Target modules .*nowhere.* not found"),
        (peft.AdaLoraConfig(total_step=9, target_modules=["q_proj"]), AttachError, "a forward pass of its own"),
        (peft.LoraConfig(init_lora_weights="pissa", target_modules=["q_proj"]), AttachError, "of the base changed"),
        (peft.LoraConfig(init_lora_weights="olora", target_modules=["q_proj"]), AttachError, "of the base changed"),
    ],
)
def test_what_can_not_be_attached_is_refused_and_the_model_left_alone(
    settings: Any, error: type[Exception], message: str
) -> None:
    family = FAMILIES["llama"]
    model = family.model()
    before, state = values(model), fingerprint(model)
    with pytest.raises(error, match=message) as caught:
        dt.attach(model, PeftMethod(config=settings))
    assert "\n" not in str(caught.value)
    assert_bit_identical(values(model), before)
    assert fingerprint(model) == state


def test_biases_of_the_base_that_peft_would_train_are_refused() -> None:
    model = FAMILIES["bert"].model()
    with pytest.raises(AttachError, match="bias of the base to be trained"):
        dt.attach(model, PeftMethod(config=peft.LoraConfig(bias="all", target_modules=["query"])))


def test_layers_without_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="targets, if layers or exclude are given"):
        PeftMethod(config=peft.OFTConfig(), layers=0)


# What trying finds.


def test_what_can_not_be_done_has_its_reason() -> None:
    model = FAMILIES["llama"].model()
    lily = stir(dt.attach(model, peft.LilyConfig(r=4, target_modules=["q_proj"]), name="lily"))
    beft = stir(dt.attach(model, peft.BeftConfig(target_modules=["q_proj"]), name="beft"))
    child = dt.attach(model, dt.ChildTuning(mode="random"), name="child")
    houlsby = dt.attach(model, dt.Houlsby(m=4), name="houlsby")
    before = FAMILIES["llama"].forward(model)
    found = {delta.name: dt.capabilities(delta) for delta in (lily, beft, child, houlsby)}
    assert torch.equal(FAMILIES["llama"].forward(model), before)

    assert "depends on the other rows" in str(found["lily"]["route"])
    assert "NotImplementedError" in str(found["lily"]["merge"])
    assert "has no bias" in str(found["beft"]["merge"])
    assert found["beft"]["route"] is None
    assert "which every row shares" in str(found["child"]["route"])
    assert "PEFT has no form" in str(found["child"]["peft"])
    assert found["child"]["merge"] is None
    assert "keep it attached" in str(found["houlsby"]["merge"])
    with pytest.raises(MergeError, match="has no bias"):
        dt.merge(model, "beft")


def test_everything_is_found_for_lora() -> None:
    model = FAMILIES["bert"].model()
    delta = stir(dt.attach(model, dt.LoRA(bias="lora_only")))
    state = copy.deepcopy(delta.state_dict())
    assert set(dt.capabilities(delta).values()) == {None}
    assert_bit_identical(dict(delta.state_dict()), dict(state))


def test_a_layer_inside_a_module_that_trains_whole_gives_way_to_it() -> None:
    model = FAMILIES["bert"].model()
    inside = "bert.encoder.layer.0.attention"
    settings = peft.OFTConfig(oft_block_size=8, target_modules=["query"], modules_to_save=["layer.0.attention"])
    delta = dt.attach(model, PeftMethod(config=settings))
    assert set(delta.sites) == {"bert.encoder.layer.1.attention.self.query", inside}
