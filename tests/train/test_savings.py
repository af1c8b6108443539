"""What the trainer saves changes neither losses nor deltas, for every kind of model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import TrainingArguments

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.train.collate import Collator
from deltatune.train.kept import layers_of, measure
from tests.models.families import DECODER, FAMILIES, VOCABULARY, bert_config
from tests.models.tools import assert_close, fingerprint, stir
from tests.packing.texts import examples

TEXTS = [text for seed in range(2) for text in examples(VOCABULARY, seed=seed)]
PAIRS = [{"input_ids": text["input_ids"], "labels": text["input_ids"][:3]} for text in TEXTS]
CLASSES = [{"input_ids": text["input_ids"], "labels": number % 3} for number, text in enumerate(TEXTS)]
DATA: dict[str, list[dict[str, Any]]] = {"llama": TEXTS, "t5": PAIRS, "bert": CLASSES}
PLAIN: dict[str, Any] = {"packing": False, "lean": False}


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    deep = {"num_hidden_layers": 4}
    made: Any = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**DECODER, **deep})),
        "bert": lambda: transformers.BertForSequenceClassification(bert_config(**deep)),
        "t5": FAMILIES["t5"].model,
    }[name]()
    layers = {} if name == "t5" else {"layers": "last:2"}
    stir(dt.attach(made.double(), dt.LoRA(r=2, targets="all_linear", **layers)))
    return made


def trained(folder: Path, name: str, **settings: Any) -> tuple[Any, list[float], dict[str, Tensor]]:
    """The trainer, its losses and the delta after two epochs of plain gradient descent."""
    args = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.005,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = {key: settings.pop(key) for key in list(settings) if hasattr(TrainingArguments, key)}
    model = model_of(name)
    trainer = dt.Trainer(
        model, TrainingArguments(**args, **arguments), train_dataset=DATA[name], data_collator=Collator(0), **settings
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer, losses, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        assert_close(found[name], tensor)


@pytest.mark.parametrize("name", ["t5", "bert"])
@pytest.mark.parametrize("settings", [{}, {"lean": False}, {"packing": False}], ids=str)
def test_padded_batches_learn_as_plain_ones_do(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    _, losses, expected = trained(tmp_path, name, **PLAIN)
    trainer, found_losses, found = trained(tmp_path, name, **settings)
    assert (trainer.savings.offset == 0) == (name == "t5" and "packing" not in settings)
    assert found_losses == pytest.approx(losses, rel=1e-5)
    assert_same(found, expected)


@pytest.mark.parametrize("settings", [{}, {"packing": False}], ids=["packed", "padded"])
def test_a_budget_checkpoints_some_layers_and_changes_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    plenty, losses, expected = trained(tmp_path, "llama", memory_budget="1TiB", **settings)
    assert plenty.memory_plan.checkpointed == ()
    trainer, found_losses, found = trained(tmp_path, "llama", memory_budget=plenty.memory_plan.total - 1, **settings)
    assert trainer.memory_plan.checkpointed == ("model.layers.2",)  # those below all deltas have nothing to keep
    assert found_losses == losses
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_a_budget_that_can_not_be_met_says_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="memory_budget: expected at least"):
        trained(tmp_path, "llama", memory_budget="1kB")
    with pytest.raises(ConfigError, match=r"memory_budget: expected it alone, found activation_checkpointing"):
        trained(tmp_path, "llama", memory_budget="1GB", activation_checkpointing=True)
    with pytest.raises(ConfigError, match="memory_budget: expected a size such as 24GiB"):
        trained(tmp_path, "llama", memory_budget="some")


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_cached_trunk_runs_once_a_text(name: str, tmp_path: Path) -> None:
    _, losses, expected = trained(tmp_path / "whole", name, lean=False)
    trainer, found_losses, found = trained(tmp_path / "cached", name, cache_trunk=True)
    assert trainer.trunk_cache.reused == trainer.state.global_step // 2
    assert (tmp_path / "cached" / "trunk").is_dir()
    assert found_losses == pytest.approx(losses, rel=1e-5)
    assert_same(found, expected)


def test_all_of_it_together(tmp_path: Path) -> None:
    _, losses, expected = trained(tmp_path / "plain", "llama", lean=False)
    _, found_losses, found = trained(tmp_path / "all", "llama", cache_trunk=True, memory_budget="1GiB")
    assert found_losses == pytest.approx(losses, rel=1e-5)
    assert_same(found, expected)


@pytest.mark.parametrize("name", DATA)
def test_the_model_is_its_own_after_training(name: str, tmp_path: Path) -> None:
    plain, _, _ = trained(tmp_path, name, **PLAIN)  # the trainer of transformers leaves marks of its own
    trainer, _, _ = trained(tmp_path, name, **({} if name == "t5" else {"cache_trunk": True}), memory_budget="1GiB")
    before, after = fingerprint(plain.model), fingerprint(trainer.model)
    for key in ("class", "modules", "attributes", "keys", "hooks", "config"):
        assert after[key] == before[key], key


def test_a_lean_step_keeps_less(tmp_path: Path) -> None:
    model = model_of("llama").train()
    trainer = dt.Trainer(model, TrainingArguments(str(tmp_path), report_to="none", use_cpu=True), train_dataset=TEXTS)
    batch = trainer.packing.collate(TEXTS[:4])
    kept = []
    for savings in (trainer.savings, trainer.savings.__class__(packing=trainer.packing, lean=False)):
        with savings.on(model):
            kept.append(sum(measure(model, lambda: model(**batch), layers_of(model)).layers.values()))
    assert kept[0] < 0.8 * kept[1]
