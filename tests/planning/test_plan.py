"""Plans beside the runs they are made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors import safe_open

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.methods import METHODS
from deltatune.planning.explain import assumptions, explained
from deltatune.planning.plan import Plan, Row
from tests.models.families import Family
from tests.models.tools import attach, every_method, families, stir

GB = 10**9
LLAMA = transformers.LlamaConfig(
    vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4
)
LLAMA.architectures = ["LlamaForCausalLM"]


def planned(*methods: Any, base: Any = LLAMA, **settings: Any) -> Plan:
    return dt.plan(base, methods=methods, **{"seq_len": 32, "batch_tokens": 128, **settings})


def only(plan: Plan) -> Row:
    (row,) = plan.rows
    return row


def total(plan: Plan) -> int:
    cost = only(plan).cost
    assert cost is not None
    return cost.total


@families("llama", "qwen2", "gpt2", "bert", "t5")
@every_method
def test_what_is_trained_and_saved_is_exact(row: Any, family: Family, tmp_path: Path) -> None:
    model = family.model()
    config = model.config
    config.architectures = [type(model).__name__]
    task = "sequence-classification" if family.name == "bert" else "auto"
    cost = only(planned(row.make(family), base=config, task=task, seq_len=16, batch_tokens=48)).cost
    assert cost is not None
    delta = attach(model, row, family)
    assert cost.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    dt.save(stir(delta, size=0.01), tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        names: list[str] = file.keys()
        size = sum(file.get_tensor(name).nbytes for name in names)
    assert cost.file == size


def test_by_default_there_is_a_row_for_full_fine_tuning_and_each_method_that_has_defaults() -> None:
    found = dt.plan(LLAMA, seq_len=32, batch_tokens=64)
    labels = [row.label for row in found.rows]
    assert labels[0] == "full"
    assert set(labels[1:]) == set(METHODS) - {"fusion", "peft"}
    errors = {row.label: row.error for row in found.rows if row.cost is None}
    assert list(errors) == ["bitfit"]  # there are no biases
    assert "add_missing=True" in str(errors["bitfit"])


# The figures that are often quoted for a base of 7B parameters.


def test_full_fine_tuning_of_7b_takes_about_60_gb() -> None:
    """In bfloat16, moments of AdamW included, gradients accumulated over batches of 1,024 tokens."""
    found = planned("full", base="llama2-7b", dtype="bfloat16", seq_len=512, batch_tokens=1024, accumulation=4)
    cost = only(found).cost
    assert cost is not None
    assert cost.weights == pytest.approx(13.5 * GB, rel=0.01)
    assert cost.gradients == pytest.approx(13.5 * GB, rel=0.01)
    assert cost.optimizer == pytest.approx(27 * GB, rel=0.01)
    assert cost.total == pytest.approx(60 * GB, rel=0.02)


def test_lora_on_7b_takes_about_23_gb() -> None:
    """In bfloat16, with padded batches of 2,048 tokens and every activation kept; trained our way it is less."""
    settings: dict[str, Any] = {"base": "llama2-7b", "dtype": "bfloat16", "seq_len": 512, "batch_tokens": 2048}
    assert total(planned("lora", savings=False, **settings)) == pytest.approx(23 * GB, rel=0.03)
    assert total(planned("lora", **settings)) < 20 * GB


# What settings do.


def test_a_shorter_batch_checkpoints_fewer_bits_and_small_moments_take_less() -> None:
    settings: dict[str, Any] = {"seq_len": 64, "batch_tokens": 512}
    most = total(planned("full", **settings))
    for change in (
        {"batch_tokens": 256},
        {"checkpointing": True},
        {"optimizer": "adamw_8bit"},
        {"dtype": "bfloat16"},
        {"shared": 60},
    ):
        assert total(planned("full", **{**settings, **change})) < most, change
    assert total(planned("full", savings=False, **settings)) > most
    assert total(planned({"method": "lora", "layers": "last:1"}, **settings)) < total(planned("lora", **settings))


def test_a_packed_base_takes_less_and_is_not_trained_whole() -> None:
    settings: dict[str, Any] = {"dtype": "bfloat16", "seq_len": 32, "batch_tokens": 64}
    full, lora = planned("full", "lora", quant="nf4", **settings).rows
    assert full.error is not None
    assert full.error.startswith("full: expected a base that is not quantised, found nf4")
    assert lora.cost is not None
    dense = only(planned("lora", **settings)).cost
    assert dense is not None
    assert lora.cost.weights < dense.weights
    assert lora.cost.trainable == dense.trainable


# Fitting.


def room_for(row: Row, share: float) -> int:
    assert row.cost is not None
    return int(row.cost.total * share) + 10**6


def test_what_fits_needs_no_changes() -> None:
    found = planned("lora", device_memory="1GiB", reserve="1MB")
    assert only(found).fits is True
    assert only(found).changes == ()
    assert only(planned("lora")).fits is None


@pytest.mark.parametrize("method", ["full", "lora", "prompt"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.4])
def test_the_changes_fit_and_start_with_what_costs_least(method: str, share: float) -> None:
    settings: dict[str, Any] = {"seq_len": 64, "batch_tokens": 1024}
    memory = room_for(only(planned(method, **settings)), share)
    row = only(planned(method, device_memory=memory, reserve=10**6, **settings))
    assert row.fits is False
    assert row.changes
    totals = [change.total for change in row.changes]
    assert totals[-1] <= memory - 10**6
    assert totals == sorted(totals, reverse=True)
    assert all(size > memory - 10**6 for size in totals[:-1])  # every one of them is needed
    if share == 0.9 and method != "full":
        assert [change.text for change in row.changes] == [
            "batches of 512 tokens, 2 of them a step (train.gradient_accumulation: 2)"
        ]


def test_where_nothing_helps_nothing_is_promised() -> None:
    row = only(planned("full", device_memory=2 * 10**6, reserve=10**6))
    assert row.fits is False
    assert row.changes == ()


# What is said.


def test_plain_data_have_every_figure() -> None:
    data = planned("lora", {"method": "bitfit"}, device_memory="1GiB").to_dict()
    lora, bitfit = data["methods"]
    assert lora["method"] == "lora"
    assert lora["trainable"] == 3 * (64 * 8 + 8 * 64) * 2
    assert (
        lora["total"]
        <= lora["weights"] + lora["gradients"] + lora["optimizer"] + lora["activations"] + lora["temporary"]
    )
    assert lora["fits"] is True
    assert bitfit["error"].startswith("target 'all' is")
    assert data["settings"]["dtype"] == "float32"


@pytest.mark.parametrize("method", ["full", "lora", "child"])
def test_an_explanation_has_the_figures_and_adds_up(method: str) -> None:
    found = planned(method)
    cost = only(found).cost
    assert cost is not None
    text = "\n".join(explained(found, cost))
    assert f"{cost.trainable:,} numbers" in text
    assert "mm" in text
    moment = cost.moments[cost.moment]
    assert cost.weights + moment.total == cost.total
    assert sum(block.nbytes for block in cost.blocks) <= cost.moments["backward"].total
    assert any("128 tokens a batch, 4 texts of 32 tokens" in line for line in assumptions(found))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 0}, "seq_len: expected at least 1, found 0; change it"),
        ({"batch_tokens": 16}, "batch_tokens: expected at least a text, 32, found 16; change it"),
        ({"shared": 33}, "shared: expected 0 to 32, found 33; change it"),
        ({"learned": 0}, "learned: expected a share above 0, up to 1, found 0; change it"),
        ({"device_memory": "much"}, "device_memory: expected a size such as 24GiB or 900MB, found 'much'; change it"),
        ({"optimizer": "adam"}, "optimizer: expected one of adamw_torch, .*, found 'adam'"),
    ],
)
def test_settings_out_of_range_are_refused_in_a_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned("lora", **settings)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method: expected one of .*, found 'lorra'"):
        planned("lorra")
