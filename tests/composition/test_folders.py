"""LoRAs in folders as one, without their base; and what PEFT makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import deltatune as dt
from deltatune.composition.ways import WAYS
from deltatune.errors import BaseMismatchError, ConfigError, FileFormatError
from deltatune.io.files import CONFIG, TENSORS, describe
from deltatune.methods.base import Method
from tests.composition.deltas import ALIKE, LLAMA, TWO, assert_same_changes, attached, changes, saved, summed
from tests.models.families import FAMILIES, Family
from tests.models.tools import assert_close, families
from tests.peers.lora import opened, theirs

WEIGHTS = {"a": 0.7, "b": -0.3}


def settings_of(how: str) -> dict[str, Any]:
    return {"density": 0.5} if WAYS[how].chooses else {}  # type: ignore[index]


@pytest.mark.parametrize("how", WAYS)
@families("bert", "llama", "gpt2")
def test_folders_give_what_attached_deltas_give(family: Family, how: Any, tmp_path: Path) -> None:
    targets = [family.targets, (*family.queries, "mlp_down")]
    methods: dict[str, Method] = {
        name: dt.LoRA(r=r, alpha=5, targets=t, train_also=()) for name, r, t in zip("ab", (4, 2), targets, strict=True)
    }
    places = saved(tmp_path, methods, family)
    made = dt.compose({places[n]: w for n, w in WEIGHTS.items()}, how, out=tmp_path / "out", **settings_of(how))
    model = attached(methods, family, torch.float32)
    expected = dt.compose(WEIGHTS, how, model=model, **settings_of(how))
    assert expected.delta is not None
    loaded = family.model()
    found = dt.load(loaded, tmp_path / "out")
    assert_same_changes(changes(found), changes(expected.delta), 1e-4)
    assert made.rank == expected.rank
    assert made.error == pytest.approx(expected.error, abs=1e-5)


@pytest.mark.parametrize("how", ["cat", "svd", "ties_svd"])
@families("bert", "t5", "llama", "gpt2")
def test_peft_reads_the_result(family: Family, how: Any, tmp_path: Path) -> None:
    targets = [family.targets, (*family.queries, "mlp_down")]
    methods: dict[str, Method] = {
        name: dt.LoRA(r=r, targets=t, train_also=()) for name, r, t in zip("ab", (4, 2), targets, strict=True)
    }
    places = saved(tmp_path, methods, family)
    dt.compose({places[n]: w for n, w in WEIGHTS.items()}, how, out=tmp_path / "out", **settings_of(how))
    model = family.model()
    dt.load(model, tmp_path / "out")
    assert_close(family.forward(opened(family, tmp_path / "out")), family.forward(model))
    config = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert "rank_pattern" not in config
    assert config["r"] == config["lora_alpha"]


def test_the_files_of_peft(tmp_path: Path) -> None:
    """Patterns of ranks and alphas, rsLoRA, targets as a pattern: what their files may say."""
    settings: list[dict[str, Any]] = [
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*": 9}},
        {"target_modules": r".*\.(q_proj|down_proj)", "use_rslora": True, "r": 3},
    ]
    folders, models = [], []
    for number, each in enumerate(settings):
        model = theirs(LLAMA, **each)
        folders.append(tmp_path / f"p{number}")
        model.save_pretrained(folders[-1])
        models.append(model)
    dt.compose({str(folders[0]): 0.5, str(folders[1]): 2.0}, out=tmp_path / "out")
    base = LLAMA.model()
    delta = dt.load(base, tmp_path / "out")
    expected: dict[str, torch.Tensor] = {}
    for weight, model in zip((0.5, 2.0), models, strict=True):
        for name, module in model.base_model.model.named_modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                change = weight * module.get_delta_weight("default").detach().double()
                expected[name] = expected.get(name, 0) + change
    assert_same_changes(changes(delta), expected, 1e-5)
    assert_close(LLAMA.forward(opened(LLAMA, tmp_path / "out")), LLAMA.forward(base))


def test_targets_stay_short_where_they_can(tmp_path: Path) -> None:
    places = saved(tmp_path, {**TWO, "c": dt.LoRA(r=2, layers=0)})
    for names, expected in (("ab", ["down_proj", "q_proj", "v_proj"]), ("ac", None)):
        dt.compose([places[name] for name in names], out=tmp_path / names)
        targets = json.loads((tmp_path / names / CONFIG).read_text())["target_modules"]
        if expected is not None:
            assert targets == expected
        model = LLAMA.model()
        assert_same_changes(
            changes(dt.load(model, tmp_path / names)),
            summed(attached({**TWO, "c": dt.LoRA(r=2, layers=0)}, dtype=torch.float32), dict.fromkeys(names, 1.0)),
            1e-4,
        )


def test_the_same_input_is_the_same_file(tmp_path: Path) -> None:
    places = saved(tmp_path)
    for name in ("one", "two"):
        dt.compose(places.values(), "dare", density=0.5, out=tmp_path / name)
    assert (tmp_path / "one" / TENSORS).read_bytes() == (tmp_path / "two" / TENSORS).read_bytes()


def test_it_knows_its_base(tmp_path: Path) -> None:
    places = saved(tmp_path)
    dt.compose(places.values(), out=tmp_path / "out", name="both")
    about = describe(tmp_path / "out")
    assert about.name == "both"
    assert about.base is not None
    other = LLAMA.model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    with pytest.raises(BaseMismatchError):
        dt.load(other, tmp_path / "out")
    model = LLAMA.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    dt.save(dt.attach(model, ALIKE["a"]), tmp_path / "stranger")
    with pytest.raises(BaseMismatchError, match="another base"):
        dt.compose([places["a"], str(tmp_path / "stranger")], out=tmp_path / "x")
    other = FAMILIES["gpt2"].model()
    dt.save(dt.attach(other, dt.LoRA(targets=("c_attn",))), tmp_path / "gpt2")
    with pytest.raises(BaseMismatchError):
        dt.compose([places["a"], str(tmp_path / "gpt2")], out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_trained_whole_needs_weights_that_add_up_to_one(tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    methods: dict[str, Method] = {name: dt.LoRA(r=2, bias="lora_only") for name in "ab"}
    places = saved(tmp_path, methods, family)
    dt.compose({places["a"]: 0.25, places["b"]: 0.75}, out=tmp_path / "out")
    model = attached(methods, family, torch.float32)
    dt.compose({"a": 0.25, "b": 0.75}, model=model)
    loaded = family.model()
    dt.load(loaded, tmp_path / "out")
    assert_close(family.forward(loaded), family.forward(model))
    assert_close(family.forward(opened(family, tmp_path / "out")), family.forward(model))
    with pytest.raises(ConfigError, match="weights that add up to 1"):
        dt.compose(places.values(), out=tmp_path / "x")
    dt.compose(places.values(), out=tmp_path / "left", rest="leave")
    assert not any("classifier" in key or "bias" in key for key in load_file(tmp_path / "left" / TENSORS))


def test_embeddings(tmp_path: Path) -> None:
    methods: dict[str, Method] = {
        "a": dt.LoRA(r=2, targets=("embedding", "query")),
        "b": dt.LoRA(r=3, targets=("embedding",)),
    }
    places = saved(tmp_path, methods)
    dt.compose(places.values(), out=tmp_path / "out")
    model = LLAMA.model()
    found = dt.load(model, tmp_path / "out")
    expected = summed(attached(methods, dtype=torch.float32), {"a": 1.0, "b": 1.0})
    assert_same_changes(changes(found), expected, 1e-4)


def test_a_header_counts_for_more_than_a_config(tmp_path: Path) -> None:
    """The config may be another delta's, if a copy was interrupted; the header travels with the tensors."""
    places = saved(tmp_path)
    file = Path(places["a"]) / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "lora_alpha": 1000}))
    dt.compose([places["a"]], out=tmp_path / "out")
    model = LLAMA.model()
    expected = changes(dt.load(model, places["a"]))
    again = LLAMA.model()
    assert_same_changes(changes(dt.load(again, tmp_path / "out")), expected, 1e-5)


def test_a_config_without_sense(tmp_path: Path) -> None:
    theirs(LLAMA, target_modules=["q_proj"], alpha_pattern={"q_proj": 3}).save_pretrained(tmp_path / "p")
    file = tmp_path / "p" / CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "alpha_pattern": {"q_proj": "much"}}))
    with pytest.raises((ConfigError, FileFormatError)) as error:
        dt.compose([str(tmp_path / "p")], out=tmp_path / "out")
    assert "\n" not in str(error.value)


def test_refusals(tmp_path: Path) -> None:
    places = saved(tmp_path, {**TWO, "d": dt.DoRA(r=2)})
    with pytest.raises(ConfigError, match="expected a LoRA, found dora; write it as one by deltatune export --as lora"):
        dt.compose([places["a"], places["d"]], out=tmp_path / "x")
    with pytest.raises(FileFormatError, match="expected a delta's folder"):
        dt.compose([places["a"], str(tmp_path / "none")], out=tmp_path / "x")
    tensors = load_file(Path(places["b"]) / TENSORS)
    del tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, Path(places["b"]) / TENSORS, metadata={"format": "pt"})
    with pytest.raises(FileFormatError, match="expected A \\[r, in\\] and B"):
        dt.compose([places["a"], places["b"]], out=tmp_path / "x")
    with pytest.raises(FileFormatError, match="finite"):
        dt.compose({places["a"]: 1e39}, out=tmp_path / "x")
    assert not (tmp_path / "x" / TENSORS).exists()
