"""Settings: what is accepted, what an editor is told, and that every fault is named at once."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.errors import ConfigError
from deltatune.methods import METHODS, method_class
from deltatune.train.config import RunConfig
from deltatune.train.config_file import config_schema, config_text, load_config, parse_config
from deltatune.train.formats import FORMATS

SHORTEST: dict[str, Any] = {"base": "tiny", "delta": "lora", "data": "train.jsonl", "output": "out"}


def faults(data: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_config(data, "c.yaml")
    return str(error.value).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(SHORTEST))
    return path


def test_plain_text_stands_for_a_section() -> None:
    config = parse_config(SHORTEST)
    assert config.base.model == "tiny"
    assert config.data.train == "train.jsonl"
    assert [(spec.name, spec.method) for spec in config.attached] == [("default", "lora")]


def test_method_settings_reach_the_method() -> None:
    config = parse_config(
        {**SHORTEST, "delta": {"method": "lora", "r": 4, "targets": ["query", "key"], "layers": "0-1"}}
    )
    method = config.attached[0].build()
    assert method.to_config() == {"method": "lora", "r": 4, "targets": ("query", "key"), "layers": "0-1"}


def test_every_fault_is_told_at_once() -> None:
    found = faults(
        {
            "base": {"modl": "tiny", "dtype": "float8"},
            "delta": {"method": "lora", "r": 0, "dropout": 2, "alfa": 3, "targets": 5},
            "data": {"train": 5, "eval_share": 1.5, "format": "foo", "columns": {"prompt": 3}},
            "train": {"learning_rate": "fast", "epochs": True, "max_steps": 2.5, "scheduler": "cosin"},
        }
    )
    expected = [
        "c.yaml: base.model: expected text, found nothing; add it",
        "c.yaml: base.dtype: expected one of auto, float32, bfloat16, float16, found 'float8'; leave it out for auto",
        "c.yaml: base.modl: expected one of model, task, ",
        "c.yaml: delta.alfa: expected a setting of lora (",
        "c.yaml: delta.targets: expected text or a list of text, found 5; ",
        "c.yaml: delta.r: lora rank of r: expected a whole number from 1, found 0",
        "c.yaml: delta.dropout: lora.dropout: expected 0 <= p < 1, found 2",
        "c.yaml: data.train: expected text, found 5; ",
        "c.yaml: data.eval_share: expected a number from 0 and below 1, found 1.5; leave it out for 0.0",
        "c.yaml: data.format: expected one of prompt-completion, ",
        "c.yaml: data.columns.prompt: expected text, found 3; ",
        "c.yaml: train.epochs: expected a number above 0, found true; leave it out for 3",
        "c.yaml: train.max_steps: expected a whole number from 1 or null, found 2.5; ",
        "c.yaml: train.learning_rate: expected a number above 0, found 'fast'; leave it out for 0.0002",
        "c.yaml: train.scheduler: expected one of linear, cosine, ",
        "c.yaml: output: expected text, found nothing; add it",
    ]
    assert len(found) == len(expected)
    assert [line for line in expected if not any(one.startswith(line) for one in found)] == []


@pytest.mark.parametrize("config", [3, {"peft_type": "NOPE"}])
def test_a_needed_setting_that_is_wrong_is_one_fault(config: Any) -> None:
    [found] = faults({**SHORTEST, "delta": {"method": "peft", "config": config}})
    assert found.startswith("c.yaml: delta.config: ")


def test_near_names_are_offered() -> None:
    assert "did you mean 'learning_rate'?" in faults({**SHORTEST, "train": {"learning_rat": 1}})[0]
    assert "did you mean 'alpha'?" in faults({**SHORTEST, "delta": {"method": "lora", "alpa": 1}})[0]
    assert "did you mean 'lora'?" in faults({**SHORTEST, "delta": "lorra"})[0]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"delta": None}, "delta: expected what to attach, found nothing; add delta: {method: lora}"),
        ({"deltas": [{"method": "lora"}]}, "expected delta or deltas, found both; remove one"),
        ({"delta": None, "deltas": [5]}, "deltas.0: expected a section with method, found 5; change it"),
        (
            {"delta": None, "deltas": [{"method": "lora"}, {"method": "lora"}]},
            "deltas: expected a name for each, found 'default' twice; set name",
        ),
        (
            {"delta": None, "deltas": [{"method": "lora"}, {"method": "lora", "name": "b", "r": -1}]},
            "deltas.1.r: lora rank of r: expected a whole number from 1, found -1",
        ),
        (
            {"data": {"train": "a", "eval": "b", "eval_share": 0.1}},
            "expected data.eval or data.eval_share, found both; remove one",
        ),
        (
            {"delta": {"method": "lora", "name": "a/b"}},
            "delta.name: expected text that matches ^[^./\\\\]+$, found 'a/b'; ",
        ),
        (
            {"data": {"train": "a", "labels": ["one"]}},
            "data.labels: expected a list of text, 2 at least or null, found ",
        ),
    ],
)
def test_contradictions(change: dict[str, Any], fault: str) -> None:
    [found] = faults({name: value for name, value in {**SHORTEST, **change}.items() if value is not None})
    assert found.startswith(f"c.yaml: {fault}")


def test_overrides_go_before_the_file(file: Path) -> None:
    config = load_config(
        file,
        [
            "train.learning_rate=3e-4",  # YAML 1.1 would read text
            "delta.r=16",
            "base.dtype=bfloat16",
            "data.columns.prompt=question",
            "train.report_to=[tensorboard]",
            "output=elsewhere",
        ],
    )
    assert config.train.learning_rate == 3e-4
    assert config.attached[0].settings == {"r": 16}
    assert (config.base.model, config.base.dtype) == ("tiny", "bfloat16")
    assert config.data.columns == {"prompt": "question"}
    assert config.train.report_to == ("tensorboard",)
    assert config.output == "elsewhere"


def test_overrides_reach_into_lists(file: Path) -> None:
    several = "deltas=[{method: lora, name: a}, {method: lora, name: b}]"
    config = load_config(file, ["delta=null", several, "deltas.1.r=2"])
    assert [spec.settings for spec in config.attached] == [{}, {"r": 2}]


@pytest.mark.parametrize(
    "override", ["train", "=3", "train..epochs=1", "output.x=1", "deltas.0.r=1", "train.epochs=[", "delta.r.x=1"]
)
def test_bad_overrides(file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"--set|config.yaml"):
        load_config(file, [override])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("base: [a\ndelta: lora", "line 2: not YAML"),
        ("base: a\nbase: b", "line 1: not YAML ('base' stands here twice)"),
        ("hello", "expected sections such as base, delta and data, found 'hello'"),
        ("base: !!python/object:os.system x", "not YAML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "c.yaml")
    assert fault in str(error.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"base: caf\xe9")
    for name, reason in (("none.yaml", "No such file"), ("latin.yaml", "not UTF-8")):
        with pytest.raises(ConfigError, match=reason):
            load_config(tmp_path / name)


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    config = parse_config({**SHORTEST, "delta": {"method": "lora", "targets": ["query"]}, "train": {"epochs": 2}})
    (tmp_path / "c.yaml").write_text(config_text(config))
    assert load_config(tmp_path / "c.yaml") == config


names = st.sampled_from([*RunConfig.model_fields, "method", "r", "targets", "rank_pattern", "train", "model", "x", "0"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(data=st.dictionaries(names, plain, max_size=6), override=st.text(max_size=20))
@settings(max_examples=80, deadline=None)
def test_whatever_is_given_it_is_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], override: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump({**SHORTEST, **data}))
    for overrides in ([], [override]):
        with contextlib.suppress(ConfigError):
            load_config(file, overrides)


@pytest.mark.parametrize("method", METHODS)
def test_the_schema_has_every_setting_of_every_method(method: str) -> None:
    variants = {each["properties"]["method"]["const"]: each for each in config_schema()["$defs"]["DeltaSpec"]["oneOf"]}
    properties = variants[method]["properties"]
    assert set(properties) == {"method", "name", *(field.name for field in dataclasses.fields(method_class(method)))}
    assert all(properties[field.name]["description"] for field in dataclasses.fields(method_class(method)))


def test_the_schema_describes_every_setting() -> None:
    schema = config_schema()
    assert schema["$defs"]["DataSpec"]["properties"]["format"]["anyOf"][0]["enum"] == list(FORMATS)
    for section in ("BaseSpec", "DataSpec", "TrainSpec"):
        undescribed = [n for n, p in schema["$defs"][section]["properties"].items() if not p.get("description")]
        assert undescribed == []


def test_reading_the_module_needs_no_torch() -> None:
    code = "import sys, deltatune.train.config_file; print(*({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
