"""The trainer's packed batches train what padded ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

import deltatune as dt
from deltatune.errors import ConfigError, DataError
from deltatune.train.collate import Collator
from tests.models.families import FAMILIES, VOCABULARY
from tests.models.tools import stir
from tests.packing.texts import examples

TEXTS = [text for seed in range(3) for text in examples(VOCABULARY, seed=seed)]


def trained(
    folder: Path, *, family: str = "llama", resume: bool = False, **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """A trainer that has taken some steps of plain gradient descent, and the delta's tensors."""
    given = {name: settings.pop(name) for name in ("packing", "train_dataset") if name in settings}
    torch.manual_seed(0)  # for a delta that starts alike
    model = FAMILIES[family].model().double()
    delta = stir(dt.attach(model, dt.LoRA(r=2)))
    args = TrainingArguments(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": len(TEXTS),
            "num_train_epochs": 3,
            "learning_rate": 0.1,
            "lr_scheduler_type": "constant",
            "optim": "sgd",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **settings,
        }
    )
    trainer = dt.Trainer(model, args, **{"train_dataset": TEXTS, **given})
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer, {name: tensor.clone() for name, tensor in delta.state_dict().items()}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing_factor": 0.1}, {"gradient_accumulation_steps": 2}])
def test_it_is_the_default_and_trains_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    packed, found = trained(tmp_path / "packed", **settings)
    padded, expected = trained(tmp_path / "padded", packing=False, **settings)
    assert packed.packing == dt.Packing()
    assert padded.packing is None
    assert_same(found, expected)


def test_batches_of_an_accumulated_step_weigh_by_their_targets(tmp_path: Path) -> None:
    whole, expected = trained(tmp_path / "whole")
    parts, found = trained(tmp_path / "parts", per_device_train_batch_size=1, gradient_accumulation_steps=len(TEXTS))
    assert whole.state.global_step == parts.state.global_step == 3
    assert_same(found, expected)


def test_a_token_budget_in_place_of_a_batch_size(tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, packing=dt.Packing(max_tokens=80, least=4, group=1.0))
    rows = [batch["packed"].rows for batch in trainer.get_train_dataloader()]
    assert max(rows) <= 80
    assert len(rows) * 3 == trainer.state.global_step


def test_a_resumed_run_meets_the_same_batches(tmp_path: Path) -> None:
    settings = {
        "packing": dt.Packing(max_tokens=60),
        "save_strategy": "steps",
        "save_steps": 5,
        "save_total_limit": 1,
        "logging_steps": 1,
    }
    whole, expected = trained(tmp_path / "whole", num_train_epochs=4, **settings)
    trained(tmp_path / "parts", num_train_epochs=4, max_steps=5, **settings)
    resumed, found = trained(tmp_path / "parts", num_train_epochs=4, resume=True, **settings)
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[0] == losses[1]
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_what_can_not_be_packed_is_padded_or_refused(tmp_path: Path) -> None:
    texts = [{**text, "labels": text["input_ids"]} for text in TEXTS]
    trainer, _ = trained(tmp_path, family="t5", train_dataset=texts)
    assert trainer.packing is None
    with pytest.raises(ConfigError, match=r"packing: .*; leave packing out"):
        trained(tmp_path, family="t5", train_dataset=texts, packing=dt.Packing())


def test_an_example_beyond_the_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_tokens: example"):
        trained(tmp_path, packing=dt.Packing(max_tokens=10))


@pytest.mark.parametrize("settings", [{"max_tokens": 0}, {"group": 1.5}, {"least": 0}, {"z_loss": -1.0}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"packing.{next(iter(settings))}"):
        dt.Packing(**settings)


def test_weights_are_refused_where_batches_are_padded(tmp_path: Path) -> None:
    model = FAMILIES["bert-mlm"].model()
    dt.attach(model, dt.LoRA(r=2))
    rows: list[dict[str, Any]] = [
        {"input_ids": [5, 6], "token_type_ids": [0, 0], "labels": [5, 6], "weights": [1.0, 0.5]}
    ]
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(ConfigError, match="weights: expected packed batches for a weight a token, but"):
        dt.Trainer(model, args, train_dataset=rows, data_collator=Collator(0))
    dt.Trainer(model, args, train_dataset=rows, data_collator=lambda rows: rows)  # which may know what to do with them
