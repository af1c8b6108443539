"""Save, load, and the same answers: in this process, in a fresh one, to train on, and in another precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import deltatune as dt
from deltatune.errors import AttachError, FileFormatError
from deltatune.io.files import CONFIG, TENSORS, describe, restore
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import (
    assert_close,
    attach,
    every_family,
    every_method,
    families,
    fingerprint,
    stir,
    train_step,
)


@every_family
@every_method
def test_what_is_loaded_answers_as_what_was_saved(family: Family, row: Row, tmp_path: Path) -> None:
    model = family.model()
    saved = attach(model, row, family, "sql", seed=1)
    expected = family.forward(model)
    assert dt.save(saved, tmp_path / "sql") == tmp_path / "sql"
    assert_close(family.forward(model), expected)

    other = family.model()
    loaded = dt.load(other, tmp_path / "sql")
    assert (loaded.name, loaded.method.to_config()) == ("sql", saved.method.to_config())
    assert (loaded.sites, loaded.is_trainable) == (saved.sites, False)
    assert_close(family.forward(other), expected)
    dt.detach(other)
    assert fingerprint(other) | {"objects": 0} == fingerprint(family.model()) | {"objects": 0}


@families("llama", "bert", "t5", "gpt2")
@every_method
def test_a_delta_is_trained_on_from_a_file(family: Family, row: Row, tmp_path: Path) -> None:
    model = family.model()
    dt.save(attach(model, row, family, seed=1), tmp_path)
    reached = family.loss(model).item()
    other = family.model()
    delta = dt.load(other, tmp_path, trainable=True)
    assert delta.is_trainable
    assert family.loss(other).item() == pytest.approx(reached, rel=1e-4)
    train_step(other, family, rate=1e-3)
    assert family.loss(other).item() < reached
    dt.save(delta, tmp_path / "again")
    third = family.model()
    dt.load(third, tmp_path / "again")
    assert_close(family.forward(third), family.forward(other))


SCRIPT = """
import sys
import torch
import deltatune as dt
from tests.models.families import FAMILIES
family = FAMILIES[sys.argv[1]]
model = family.model()
dt.load(model, sys.argv[2])
torch.save(family.forward(model), sys.argv[3])
"""


@families("llama")
def test_a_fresh_process_gets_the_same_answers(family: Family, tmp_path: Path) -> None:
    model = family.model()
    dt.save(attach(model, ROWS["lora"], family, seed=1), tmp_path)
    root = Path(__file__).parents[2]
    arguments = [family.name, str(tmp_path), str(tmp_path / "answer.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], cwd=root, check=True)
    assert_close(torch.load(tmp_path / "answer.pt"), family.forward(model))


@families("llama", "bert")
def test_deltas_saved_one_by_one_are_loaded_beside_each_other(family: Family, tmp_path: Path) -> None:
    model = family.model()
    for name in "ab":
        attach(model, ROWS["lora"], family, name, seed=ord(name))
    expected = family.forward(model)
    for name, delta in dt.deltas(model).items():
        dt.save(delta, tmp_path / name)
    other = family.model()
    for name in "ab":
        dt.load(other, tmp_path / name)
    assert_close(family.forward(other), expected)


@families("llama")
def test_a_delta_that_is_off_is_saved_and_comes_back_on(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    expected = family.forward(model)
    delta.disable()
    dt.save(delta, tmp_path)
    assert not delta.enabled
    other = family.model()
    dt.load(other, tmp_path)
    assert_close(family.forward(other), expected)


@families("llama")
def test_a_name_may_be_given_when_loading_and_is_taken_once(family: Family, tmp_path: Path) -> None:
    model = family.model()
    dt.save(attach(model, ROWS["lora"], family, "sql", seed=1), tmp_path)
    with pytest.raises(AttachError, match="'sql' is taken"):
        dt.load(model, tmp_path)
    assert dt.load(model, tmp_path, name="again").name == "again"
    assert list(dt.deltas(model)) == ["sql", "again"]


@families("llama", "bert")
def test_a_file_may_be_written_in_half_precision(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    expected = family.forward(model)
    dt.save(delta, tmp_path, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(tmp_path / TENSORS).values()} == {torch.bfloat16}
    other = family.model()
    loaded = dt.load(other, tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert (family.forward(other) - expected).abs().max() < 0.05 * expected.abs().max()


@families("llama")
def test_numbers_that_the_precision_of_the_file_can_not_hold_are_refused(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    next(delta.parameters()).data[0, 0] = 1e6
    with pytest.raises(FileFormatError, match=r"holds numbers beyond torch\.float16, choose another precision"):
        dt.save(delta, tmp_path, dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    dt.save(delta, tmp_path)


@families("llama")
@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_a_delta_that_diverged_is_not_written_over_a_good_one(family: Family, bad: float, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    dt.save(delta, tmp_path)
    expected = family.forward(model)
    next(delta.parameters()).data[0, 0] = bad
    with pytest.raises(FileFormatError, match="expected finite numbers, found NaN or infinity; the run diverged"):
        dt.save(delta, tmp_path)
    other = family.model()
    dt.load(other, tmp_path)
    assert_close(family.forward(other), expected)


@families("llama", "bert")
def test_a_delta_takes_its_tensors_back_from_a_file(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family, seed=1)
    dt.save(delta, tmp_path)
    expected = family.forward(model)
    stir(delta, seed=2)
    assert not torch.allclose(family.forward(model), expected)
    restore(delta, tmp_path)
    assert_close(family.forward(model), expected)
    assert delta.is_trainable


@families("llama")
def test_a_detached_delta_can_not_be_saved(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = attach(model, ROWS["lora"], family)
    dt.detach(model)
    with pytest.raises(AttachError, match="found it detached"):
        dt.save(delta, tmp_path)


def test_the_folder_says_what_the_delta_is(tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    model = family.model()
    delta = dt.attach(model, LoRA(r=2, layers="last:1"), name="sql")
    (tmp_path / "notes.txt").write_text("kept")
    dt.save(delta, tmp_path, card={"Data": "questions"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", CONFIG, TENSORS, "notes.txt"]
    about = describe(tmp_path)
    assert (about.method, about.name) == (delta.method, "sql")
    assert {key.removeprefix("base_model.model."): tuple(shape) for key, shape in about.shapes().items()} == {
        "model.layers.1.self_attn.q_proj.lora_A.weight": (2, 32),
        "model.layers.1.self_attn.q_proj.lora_B.weight": (32, 2),
        "model.layers.1.self_attn.v_proj.lora_A.weight": (2, 32),
        "model.layers.1.self_attn.v_proj.lora_B.weight": (16, 2),
    }
    card = (tmp_path / "README.md").read_text()
    assert "| Data | questions |" in card
    assert f"{delta.size:,}" in card
    assert json.loads((tmp_path / CONFIG).read_text())["peft_type"] == "LORA"


@families("bert")
def test_a_whole_module_keeps_what_it_does_not_save(family: Family, tmp_path: Path) -> None:
    # BERT's embeddings hold the positions in a buffer that no state dict has.
    model = family.model()
    delta = stir(dt.attach(model, LoRA(r=2, train_also=("embeddings",))), size=0.05)
    expected = family.forward(model)
    dt.save(delta, tmp_path)
    other = family.model()
    dt.load(other, tmp_path)
    assert_close(family.forward(other), expected)


@families("bert")
def test_a_head_with_a_product_of_its_own_is_no_head_to_leave_out(family: Family, tmp_path: Path) -> None:
    model = family.model()
    delta = stir(dt.attach(model, LoRA(r=2, targets=("query", "classifier"))))
    assert sum(parameter.numel() for name, parameter in delta.named_parameters() if "copy" in name) == 0
    expected = family.forward(model)
    dt.save(delta, tmp_path)
    other = family.model()
    dt.load(other, tmp_path)
    assert_close(family.forward(other), expected)
    third = family.model()
    third.get_parameter("classifier.weight").data.add_(1)
    with pytest.raises(FileFormatError, match=r"base weights: classifier\.weight differs"):
        dt.load(third, tmp_path)
