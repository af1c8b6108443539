"""Evaluation without padding finds what evaluation with padding does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import deltatune as dt
from deltatune.packing.packed import Packed
from deltatune.packing.path import PackedModel
from deltatune.train import evaluate as evaluation
from deltatune.train.collate import Collator
from deltatune.train.config_file import load_config
from deltatune.train.encode import encode_records
from deltatune.train.evaluate import evaluate, score
from deltatune.train.records import read_records
from deltatune.train.run import run
from tests.cli import tiny
from tests.models.families import FAMILIES, VOCABULARY, Family
from tests.models.methods import ROWS, Row
from tests.models.tools import attach, families
from tests.packing.test_scoring import counting
from tests.packing.texts import examples
from tests.processes import together

causal = families("llama", "qwen2", "qwen3", "gpt2")
some_methods = pytest.mark.parametrize("row", [ROWS[name] for name in ("lora", "prefix", "prompt", "pfeiffer")])


def padded_batches(size: int = 3) -> list[dict[str, Tensor]]:
    texts = examples(VOCABULARY, shared=20)
    collate = Collator(0)
    return [collate(texts[start : start + size]) for start in range(0, len(texts), size)]


def assert_alike(found: dict[str, float], wanted: dict[str, float]) -> None:
    assert found.keys() == wanted.keys() == {"loss", "perplexity", "token_accuracy"}
    assert found["token_accuracy"] == wanted["token_accuracy"]
    for name in ("loss", "perplexity"):
        assert found[name] == pytest.approx(wanted[name], rel=2e-6)


@contextlib.contextmanager
def widths(model: nn.Module) -> Iterator[list[int]]:
    """How many rows of logits each call of the head makes."""
    seen: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda module, args, out: seen.append(out[..., 0].numel())
    )
    try:
        yield seen
    finally:
        handle.remove()


@causal
@some_methods
def test_packed_is_padded(family: Family, row: Row) -> None:
    model = family.model().double()
    attach(model, row, family, seed=1)
    assert_alike(score(model, padded_batches(), "causal"), score(model, padded_batches(), "causal", packed=False))


@causal
def test_single_precision(family: Family) -> None:
    model = family.model()
    attach(model, ROWS["lora"], family, seed=1)
    assert_alike(score(model, padded_batches(), "causal"), score(model, padded_batches(), "causal", packed=False))


def test_no_padding_and_no_logits_that_nobody_asked_for() -> None:
    model, batches = FAMILIES["llama"].model(), padded_batches(size=7)
    texts = examples(VOCABULARY, shared=20)
    with counting(model.model) as rows, widths(model) as logits:
        score(model, batches, "causal")
        rows.clear()
        logits.clear()
        score(model, batches, "causal")
    assert rows == [sum(len(text["input_ids"]) for text in texts) - 3 * 20]
    predicting = {
        tuple(t["input_ids"][:at]) for t in texts for at in range(1, len(t["labels"])) if t["labels"][at] >= 0
    }
    assert len(predicting) <= sum(logits) < rows[0]


def test_each_batch_is_gathered_with_a_row_an_example() -> None:
    model, shapes = FAMILIES["llama"].model(), []

    def gather(values: Tensor) -> Tensor:
        shapes.append(tuple(values.shape))
        return values.repeat(2, 1)  # as if another process had found the same

    found = score(model, padded_batches(), "causal", gather=gather)
    assert shapes == [(3, 3), (3, 3), (1, 3)]
    assert_alike(found, score(model, padded_batches(), "causal", packed=False))


def test_an_example_without_labels_counts_nothing() -> None:
    model, batches = FAMILIES["llama"].model(), padded_batches()
    batches[1]["labels"][0] = -100
    batches[2]["labels"][:] = -100
    assert_alike(score(model, batches, "causal"), score(model, batches, "causal", packed=False))


def test_what_packed_batches_can_not_say_is_padded() -> None:
    model = FAMILIES["llama"].model()
    attach(model, ROWS["lora"], FAMILIES["llama"], seed=1)
    batches = padded_batches(size=7)
    whole = [batch["input_ids"].numel() for batch in batches]
    positions = [batch | {"position_ids": torch.arange(batch["input_ids"].shape[1]).expand(7, -1)} for batch in batches]
    wanted = score(model, batches, "causal", packed=False)
    with counting(model.model) as seen:
        score(model, batches, "causal")
        seen.clear()
        assert_alike(score(model, positions, "causal"), wanted)
        assert seen == whole
        seen.clear()
        with dt.routed(model, ["default"] * 7):
            assert_alike(score(model, batches, "causal"), wanted)
        assert seen == whole
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out + out.cumsum(1))
    assert_alike(score(model, batches, "causal"), score(model, batches, "causal", packed=False))


def test_the_precision_of_the_context_holds() -> None:
    model, batches = FAMILIES["llama"].model(), padded_batches()

    def halved() -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    exact = score(model, batches, "causal")["loss"]
    found = score(model, batches, "causal", context=halved)["loss"]
    assert found == pytest.approx(score(model, batches, "causal", context=halved, packed=False)["loss"], rel=1e-2)
    assert found != exact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.pairs(24))
    tiny.save_llama(tmp_path / "llama")
    return tmp_path


def test_evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = dt.load_base(folder / "llama")
    data = encode_records(read_records(folder / "train.jsonl"), base.tokenizer)
    advanced: list[int] = []
    found = evaluate(base, data, batch_size=5, progress=advanced.append)
    assert advanced == [5, 5, 5, 5, 4]
    monkeypatch.setattr(evaluation, "why_not", lambda model: "it is not to be packed")
    plain = evaluate(base, data, batch_size=5)
    assert_alike(found.metrics, plain.metrics)
    assert (found.examples, found.supervised) == (plain.examples, plain.supervised)


@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_a_run_evaluates_as_it_did(folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "data": {"eval": str(folder / "train.jsonl")},
        "train": {"eval_steps": 2, "precision": precision},
    }
    results: list[float] = []
    halved: list[bool] = []
    scores = PackedModel.scores

    def noting(self: PackedModel, batch: Packed) -> tuple[Tensor, Tensor]:
        halved.append(torch.is_autocast_enabled("cpu"))
        return scores(self, batch)

    monkeypatch.setattr(PackedModel, "scores", noting)
    for name in ("packed", "padded"):
        config = load_config(tiny.write_config(folder, folder / "llama", output=str(folder / name), **settings))
        results.append(run(config).metrics["eval_loss"])
        monkeypatch.setattr(evaluation, "why_not", lambda model: "it is not to be packed")
    assert set(halved) == {precision == "bf16"}
    assert results[0] == pytest.approx(results[1], rel=1e-5 if precision == "full" else 1e-2)


def scored_with_others(packs: list[bool]) -> tuple[dict[str, float], int]:
    """The scores in one of several processes, some of which may not pack, and how many batches it packed."""
    from accelerate import Accelerator

    accelerator, calls = Accelerator(cpu=True), 0
    if not packs[accelerator.process_index]:
        evaluation.why_not = lambda model: "it is not to be packed"
    scores = PackedModel.scores

    def counted(self: PackedModel, batch: Packed) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return scores(self, batch)

    PackedModel.scores = counted  # type: ignore[method-assign]
    texts = examples(VOCABULARY, shared=20)
    loader = accelerator.prepare(DataLoader(texts, batch_size=2, collate_fn=Collator(0)))  # 7 examples: one is repeated
    found = score(FAMILIES["llama"].model(), loader, "causal", gather=accelerator.gather_for_metrics)
    return found, calls


@pytest.mark.parametrize("packs", [[True, True], [True, False]])
def test_several_processes_count_each_example_once(packs: list[bool]) -> None:
    wanted = score(FAMILIES["llama"].model(), padded_batches(), "causal", packed=False)
    for (found, calls), packed in zip(together(scored_with_others, packs), packs, strict=True):
        assert_alike(found, wanted)
        assert calls == (2 if packed else 0)
