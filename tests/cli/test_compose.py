"""Composing, extracting and exporting LoRAs from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import deltatune as dt
from tests.cli.test_cli import call, data_of, logits
from tests.models.tools import stir

METHODS: dict[str, Any] = {
    "a": dt.LoRA(r=4, alpha=8),
    "b": dt.LoRA(r=2, alpha=3, targets=("query", "mlp_down")),
    "dora": dt.DoRA(r=4),
    "adalora": dt.AdaLoRA(init_r=4, target_r=2),
    "child": dt.ChildTuning(mode="random", p=0.3),
    "pfeiffer": dt.Pfeiffer(m=4),
}


@pytest.fixture(scope="module")
def deltas(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of deltas, and a checkpoint that one of them was merged into."""
    folder = tmp_path_factory.mktemp("deltas")
    base = dt.load_base(llama)
    for seed, (name, method) in enumerate(METHODS.items()):
        delta = stir(dt.attach(base.model, method, name=name), seed)
        dt.save(delta, folder / name)
        if name == "dora":
            dt.merge(base.model, name)
            base.model.save_pretrained(folder / "tuned")
            dt.unmerge(base.model)
        dt.detach(base.model, name)
    return folder


def with_delta(llama: Path, *folders: Path) -> torch.Tensor:
    model = dt.load_base(llama).model
    for number, folder in enumerate(folders):
        dt.load(model, folder, name=f"d{number}")
    return logits(model)


def test_the_sum_of_two(deltas: Path, llama: Path, tmp_path: Path) -> None:
    shown = call("compose", deltas / "a", deltas / "b", "--out", tmp_path / "ab").output.replace("\n", " ")
    assert "rank 6" in shown
    assert "the exact sum" in shown
    expected = with_delta(llama, deltas / "a", deltas / "b")
    torch.testing.assert_close(with_delta(llama, tmp_path / "ab"), expected, rtol=1e-4, atol=1e-4)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "ab")
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-4, atol=1e-4)
    assert data_of("info", tmp_path / "ab")["method"] == "lora"


def test_weights_rank_and_density(deltas: Path, tmp_path: Path) -> None:
    two = (deltas / "a", deltas / "b")
    found = data_of("compose", *two, "-w", "0.7", "-w", "-0.3", "--how", "svd", "-o", tmp_path / "s", "--rank", "3")
    assert found["rank"] == 3
    assert list(found["weights"].values()) == [0.7, -0.3]
    assert 0 < found["error"] < 1
    assert found["energy_kept"] == pytest.approx(1 - found["error"] ** 2)
    assert len(found["errors"]) == found["sites"]
    shown = call("compose", *two, "--how", "svd", "--rank", "3", "-o", tmp_path / "t").output
    assert "lost by the rank" in shown.replace("\n", " ")
    shown = call("compose", *two, "--how", "ties", "--density", "0.5", "-o", tmp_path / "u").output
    assert "off the weighted sum" in shown.replace("\n", " ")
    again = [
        data_of("compose", *two, "--how", "dare_svd", "--density", "0.5", "--seed", "3", "-o", tmp_path / name)["error"]
        for name in "xy"
    ]
    assert again[0] == again[1]


@pytest.mark.parametrize("name", ["a", "dora", "adalora", "child"])
def test_any_method_is_exported_as_a_lora(name: str, deltas: Path, llama: Path, tmp_path: Path) -> None:
    found = data_of("export", deltas / name, "--as", "lora", "--rank", "48", "--out", tmp_path / "lora")
    assert found["error"] < 1e-5
    expected = with_delta(llama, deltas / name)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "lora")
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-3, atol=1e-3)
    assert data_of("info", tmp_path / "lora")["name"] == name
    small = data_of("export", deltas / name, "--as", "lora", "--rank", "1", "--out", tmp_path / "small")
    assert small["rank"] == 1
    assert 0 < small["error"] < 1


def test_what_has_factors_is_exported_exactly(deltas: Path, llama: Path, tmp_path: Path) -> None:
    assert "exact sum" in call("export", deltas / "adalora", "--as", "lora", "--out", tmp_path / "lora").output
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["rank_pattern"], config["alpha_pattern"]) == ("LORA", {}, {})
    torch.testing.assert_close(
        with_delta(llama, tmp_path / "lora"), with_delta(llama, deltas / "adalora"), rtol=1e-4, atol=1e-4
    )


def test_the_difference_of_two_checkpoints(deltas: Path, llama: Path, tmp_path: Path) -> None:
    found = data_of("extract", llama, deltas / "tuned", "--rank", "32", "--out", tmp_path / "e")
    assert found["error"] < 1e-5
    torch.testing.assert_close(
        with_delta(llama, tmp_path / "e"), with_delta(llama, deltas / "dora"), rtol=1e-4, atol=1e-4
    )
    shown = call("extract", llama, deltas / "tuned", "-r", "2", "-o", tmp_path / "half", "--dtype", "bfloat16").output
    assert "lost by the rank" in shown.replace("\n", " ")
    tensors = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


BAD: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "no LoRA": lambda d, m: ["compose", d / "a", d / "dora"],
    "no delta": lambda d, m: ["compose", d / "a", d / "none"],
    "twice": lambda d, m: ["compose", d / "a", d / "a"],
    "one weight": lambda d, m: ["compose", d / "a", d / "b", "-w", "1"],
    "no such way": lambda d, m: ["compose", d / "a", d / "b", "--how", "sum"],
    "no density": lambda d, m: ["compose", d / "a", d / "b", "--how", "ties"],
    "a rank for cat": lambda d, m: ["compose", d / "a", d / "b", "--rank", "4"],
    "no such sign": lambda d, m: ["compose", d / "a", d / "b", "--how", "ties", "--density", "1", "--sign", "x"],
    "a rank for peft": lambda d, m: ["export", d / "a", "--rank", "4"],
    "no rank for DoRA": lambda d, m: ["export", d / "dora", "--as", "lora"],
    "a refused rest": lambda d, m: ["export", d / "child", "--as", "lora", "--rank", "4", "--rest", "refuse"],
    "no such rest": lambda d, m: ["export", d / "a", "--as", "lora", "--rest", "x"],
    "no such form": lambda d, m: ["export", d / "a", "--as", "x"],
    "a weight for lorahub": lambda d, m: [
        *("compose", d / "a", d / "b", "--how", "lorahub", "--examples", m / "config.json", "-w", "1", "-w", "1")
    ],
    "a base for cat": lambda d, m: ["compose", d / "a", d / "b", "--base", m],
    "a rest for peft": lambda d, m: ["export", d / "a", "--rest", "leave"],
    "no difference": lambda d, m: ["extract", m, m, "--rank", "4"],
    "no rank": lambda d, m: ["extract", m, d / "tuned", "--rank", "0"],
    "no checkpoint": lambda d, m: ["extract", m, d / "none", "--rank", "4"],
    "no such dtype": lambda d, m: ["extract", m, d / "tuned", "--rank", "4", "--dtype", "int8"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, deltas: Path, llama: Path, tmp_path: Path) -> None:
    result = call(*BAD[case](deltas, llama), "--out", tmp_path / "out", code=2)
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_what_has_no_form_as_weights(deltas: Path, tmp_path: Path) -> None:
    shown = call("export", deltas / "pfeiffer", "--as", "lora", "--rank", "4", "--out", tmp_path / "x", code=1).stderr
    assert "no weight of the base can stand for it" in shown.replace("\n", " ")


def test_nothing_is_overwritten_unasked(deltas: Path, tmp_path: Path) -> None:
    two = ["compose", deltas / "a", deltas / "b", "--out", tmp_path / "out"]
    call(*two)
    assert "add --overwrite" in call(*two, code=2).stderr
    call(*two, "--overwrite")


def test_weights_are_found_on_examples(deltas: Path, llama: Path, folder: Path) -> None:
    pytest.importorskip("nevergrad")
    given = ("compose", deltas / "a", deltas / "b", "--how", "lorahub", "--base", llama, "--evaluations", "6")
    found = data_of(*given, "--examples", folder / "test.jsonl", "--out", folder / "new")
    assert set(found["weights"]) == {str(deltas / "a"), str(deltas / "b")}
    weighted = dt.compose(found["weights"], "factors", out=folder / "same")
    assert weighted.folder is not None
    torch.testing.assert_close(with_delta(llama, folder / "new"), with_delta(llama, weighted.folder))
    refused = call(*given, "--out", folder / "x", code=2).output
    assert "--examples: expected it with --how lorahub" in refused
