"""The difference of two checkpoints as a LoRA."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import deltatune as dt
from deltatune.errors import BaseMismatchError, ConfigError, FileFormatError
from tests.composition.deltas import LLAMA
from tests.models.families import DECODER, FAMILIES, Family
from tests.models.tools import assert_close, families
from tests.peers.lora import opened

RANK = 3


@torch.no_grad()
def tuned(family: Family, rest: bool = False, full: bool = False) -> nn.Module:
    """A model whose linear layers have been changed by matrices of rank 3 (or of any rank), and other things too."""
    model = family.model()
    linear = {id(site.weight) for site in model.modules() if type(site).__name__ in ("Linear", "Conv1D")}
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for name, parameter in model.named_parameters():
        if id(parameter) in linear and (head is None or parameter is not head.weight) and "classifier" not in name:
            (rows, columns) = parameter.shape
            parameter += random(rows, columns) / 9 if full else random(rows, RANK) @ random(RANK, columns) / 9
        elif rest:
            parameter += random(*parameter.shape) / 9
    return model


def save(model: Any, folder: Path, **how: Any) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder, **how)
    return folder


@families("bert", "llama", "gpt2", "t5", "qwen2")
def test_it_gives_back_a_low_rank_difference(family: Family, tmp_path: Path) -> None:
    base, other = save(family.model(), tmp_path / "base"), save(tuned(family), tmp_path / "tuned")
    made = dt.extract(base, other, tmp_path / "out", rank=RANK)
    assert made.error < 1e-5
    assert made.folder == tmp_path / "out"
    model = family.model()
    dt.load(model, tmp_path / "out")
    assert_close(family.forward(model), family.forward(tuned(family)))
    assert_close(family.forward(opened(family, tmp_path / "out")), family.forward(model))


@families("bert", "llama", "gpt2", "qwen2")
def test_the_rest_is_kept_whole_left_or_refused(family: Family, tmp_path: Path) -> None:
    base, other = save(family.model(), tmp_path / "base"), save(tuned(family, rest=True), tmp_path / "tuned")
    with pytest.raises(
        ConfigError, match=r"expected changes of matrices alone, found others at .* keep them, or leave"
    ):
        dt.extract(base, other, tmp_path / "refused", rank=RANK)
    assert not (tmp_path / "refused").exists()
    dt.extract(base, other, tmp_path / "kept", rank=RANK, rest="keep")
    model = family.model()
    dt.load(model, tmp_path / "kept")
    assert_close(family.forward(model), family.forward(tuned(family, rest=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of tied embeddings
        theirs = opened(family, tmp_path / "kept")
    assert_close(family.forward(theirs), family.forward(model))
    dt.extract(base, other, tmp_path / "left", rank=RANK, rest="leave")
    again = family.model()
    dt.load(again, tmp_path / "left")
    assert_close(family.forward(again), family.forward(tuned(family)), 1e9)  # it loads; the rest is not there


def test_the_error_is_that_of_the_tail(tmp_path: Path) -> None:
    base, other = save(LLAMA.model(), tmp_path / "base"), save(tuned(LLAMA, full=True), tmp_path / "tuned")
    made = dt.extract(base, other, tmp_path / "out", rank=4, targets=("q_proj", "down_proj"), rest="leave")
    assert len(made.losses) == 4
    for site, loss in made.losses.items():
        weights = [model.get_submodule(site).weight.detach() for model in (tuned(LLAMA, full=True), LLAMA.model())]
        change = weights[0] - weights[1]
        tail = torch.linalg.svdvals(change)[4:]
        assert loss.lost == pytest.approx(float(tail.norm()), rel=1e-4)
        assert loss.error == pytest.approx(float(tail.norm() / change.norm()), rel=1e-4)
    errors = [dt.extract(base, other, tmp_path / f"r{rank}", rank=rank).error for rank in (1, 8, 32)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5


def test_several_files_and_another_precision(tmp_path: Path) -> None:
    base = save(LLAMA.model().bfloat16(), tmp_path / "base", max_shard_size="20KB")
    other = save(tuned(LLAMA), tmp_path / "tuned", max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 1
    made = dt.extract(base, other, tmp_path / "out", rank=32, rest="leave", dtype=torch.bfloat16)
    assert made.error < 1e-5
    model = LLAMA.model().bfloat16()
    delta = dt.load(model, tmp_path / "out")
    dt.merge(model, delta.name)
    site = "model.layers.0.mlp.down_proj"
    torch.testing.assert_close(
        model.get_submodule(site).weight.float(), tuned(LLAMA).get_submodule(site).weight, rtol=0.02, atol=0.02
    )


def test_the_base_is_known_again(tmp_path: Path) -> None:
    base, other = save(LLAMA.model(), tmp_path / "base"), save(tuned(LLAMA), tmp_path / "tuned")
    dt.extract(base, other, tmp_path / "out", rank=RANK)
    stranger = LLAMA.model()
    with torch.no_grad():
        for parameter in stranger.parameters():
            parameter.add_(1)
    with pytest.raises(BaseMismatchError):
        dt.load(stranger, tmp_path / "out")


def test_refusals(tmp_path: Path) -> None:
    base, other = save(LLAMA.model(), tmp_path / "base"), save(tuned(LLAMA), tmp_path / "tuned")
    deeper = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "num_hidden_layers": 3}))
    wider = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, "intermediate_size": 64}))
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (base, {}, "found that it does nowhere"),
        (save(wider, tmp_path / "wider"), {}, "expected tensors of one shape"),
        (save(FAMILIES["gpt2"].model(), tmp_path / "gpt2"), {}, "expected a tensor for"),
        (tmp_path / "none", {}, "expected a model folder"),
        (other, {"rank": 0}, "rank: expected a whole number"),
        (other, {"rest": "drop"}, "rest: expected one of"),
        (other, {"targets": ("nope",)}, "matches no module"),
    ]
    for place, given, message in cases:
        with pytest.raises(ConfigError, match=message) as error:
            dt.extract(base, place, tmp_path / "out", **{"rank": RANK, **given})
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="expected a tensor for"):
        dt.extract(save(deeper, tmp_path / "deeper"), base, tmp_path / "out", rank=RANK)
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    with pytest.raises(FileFormatError, match=r"expected model.safetensors, found none"):
        dt.extract(base, other, tmp_path / "out", rank=RANK)
    assert not (tmp_path / "out").exists()
