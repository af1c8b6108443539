"""Advice for situations in which it is known what is right."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.planning.advice import Advice
from deltatune.planning.rates import start_rate
from deltatune.planning.settings_of import run_settings
from deltatune.train.config_file import parse_config
from deltatune.train.run import run
from tests.cli.tiny import save_bert, save_llama

LLAMA = transformers.LlamaConfig(
    vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4
)
LLAMA.architectures = ["LlamaForCausalLM"]
BERT = transformers.BertConfig(
    vocab_size=500, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4
)
BERT.architectures = ["BertModel"]
SHORT: dict[str, Any] = {"seq_len": 64, "batch_tokens": 512}


@cache
def advice(base: str = "llama", **situation: Any) -> Advice:
    return dt.advise({"llama": LLAMA, "bert": BERT}[base], **SHORT, **situation)


def labels(found: Advice) -> list[str]:
    return [option.label for option in found.options if option.excluded is None]


def excluded(found: Advice) -> dict[str, str]:
    return {option.label: option.excluded for option in found.options if option.excluded is not None}


def place(found: Advice, label: str) -> int:
    return labels(found).index(label)


def test_by_default_low_rank_is_first() -> None:
    assert labels(advice())[0].startswith("lora")
    assert labels(advice(examples=5000))[0].startswith("lora")


def test_few_examples_call_for_adapters() -> None:
    found = advice("bert", examples=200)
    assert labels(found)[0] in ("pfeiffer", "houlsby")
    assert place(found, "pfeiffer") < place(found, "lora") < place(found, "full")


def test_out_of_reach_only_proxy_tuning_is_left() -> None:
    found = advice(reachable=False)
    assert labels(found) == ["proxy"]
    assert found.best is not None
    assert "2401.08565" in found.best.reasons[0].source


def test_a_plain_model_needs_what_merges() -> None:
    found = advice(merged=True)
    assert {"lora", "dora", "ia3", "full"} <= set(labels(found))
    assert {"prompt", "prefix", "houlsby", "pfeiffer", "parallel", "proxy"} <= set(excluded(found))


def test_many_tasks_need_what_rows_can_take_or_leave() -> None:
    found = advice("bert", tasks=10)
    assert {"lora", "prefix", "pfeiffer"} <= set(labels(found))
    assert {"child", "full"} <= set(excluded(found))


def test_tight_memory_calls_for_prompts_and_biases() -> None:
    free = advice("bert")
    lora = next(option for option in free.options if option.label == "lora")
    assert lora.row is not None
    assert lora.row.cost is not None
    tight = advice("bert", device_memory=lora.row.cost.total + 10**5, reserve=10**4)
    assert tight.situation.is_tight
    assert not free.situation.is_tight
    gained = {o.label: o.score for o in tight.options}
    before = {o.label: o.score for o in free.options}
    assert gained["bitfit"] > before["bitfit"]
    assert place(tight, "bitfit") < place(free, "bitfit")


def test_what_can_not_be_attached_is_last_with_its_reason() -> None:
    found = excluded(advice())
    assert "add_missing=True" in found["bitfit"]


def test_what_does_not_fit_is_last() -> None:
    found = dt.advise(LLAMA, seq_len=8, batch_tokens=8, device_memory=5 * advice().situation.parameters, reserve=1000)
    assert "does not fit, whatever is changed" in excluded(found)["full"]  # two bytes a weight, a gradient, two moments


def test_points_are_the_sum_of_the_reasons() -> None:
    for option in advice("bert", examples=200, tasks=3).options:
        assert option.score == sum(reason.points for reason in option.reasons)
        assert all(reason.points and reason.source for reason in option.reasons)


def test_plain_data_have_reasons_and_figures() -> None:
    data = advice().to_dict()
    best = data["options"][0]
    assert best["figures"]["total"] > 0
    assert best["reasons"][0]["source"]


# Settings to train.


def test_the_settings_are_those_of_a_run_that_trains(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    (tmp_path / "train.jsonl").write_text('{"prompt": "red", "completion": "blue"}\n' * 20)
    found = dt.advise(str(base), seq_len=16, batch_tokens=64)
    text = run_settings(found, data=str(tmp_path / "train.jsonl"), output=str(tmp_path / "run"))
    settings = yaml.safe_load(text)
    settings["train"] |= {"max_steps": 1}
    result = run(parse_config(settings), progress=False)
    assert result.metrics["steps"] == 1
    assert text.startswith(f"# {found.best.label} (low rank), because:")


def test_the_changes_that_make_it_fit_are_in_the_settings(tmp_path: Path) -> None:
    base = str(save_bert(tmp_path / "base"))
    free = dt.advise(base, **SHORT)
    lora = next(option for option in free.options if option.label == "lora")
    assert lora.row is not None
    assert lora.row.cost is not None
    memory = int(lora.row.cost.total * 0.7)
    found = dt.advise(base, device_memory=memory, reserve=1000, **SHORT)
    option = next(option for option in found.options if option.label == "lora")
    settings = yaml.safe_load(run_settings(found, data="t.jsonl", output="out", option=option))
    assert settings["train"]["batch_size"] < 8
    assert settings["train"]["batch_size"] * settings["train"]["gradient_accumulation"] == 8


def test_full_fine_tuning_can_be_written_too() -> None:
    found = advice()
    full = next(option for option in found.options if option.label == "full")
    settings = yaml.safe_load(run_settings(found, data="t.jsonl", output="out", option=full))
    assert settings["delta"] == {"method": "child", "mode": "F", "p": 1.0, "targets": ["all"]}
    assert settings["train"]["learning_rate"] == 2e-5
    assert "keeps the base beside it" in run_settings(found, data="t.jsonl", output="out", option=full)


def test_presets_are_written_as_what_can_be_loaded() -> None:
    found = dt.advise("bert-base", seq_len=16, batch_tokens=32)
    base = yaml.safe_load(run_settings(found, data="t", output="o"))["base"]
    assert base["model"] == "google-bert/bert-base-uncased"


def test_nothing_to_train_is_not_written() -> None:
    with pytest.raises(ConfigError, match="advice: expected a method that is attached"):
        run_settings(advice(reachable=False), data="t", output="o")


def test_rates_to_begin_with_differ_by_route_and_size() -> None:
    assert start_rate("full", 10**8) < start_rate("lora", 10**8) < start_rate("prompt", 10**8)
    assert start_rate("lora", 7 * 10**9) < start_rate("lora", 10**8)


@pytest.mark.parametrize("setting", [{"tasks": 0}, {"examples": 0}])
def test_what_is_less_than_one_is_refused(setting: dict[str, int]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=f"{name}: expected at least 1, found 0; change it"):
        dt.advise(LLAMA, **setting)
