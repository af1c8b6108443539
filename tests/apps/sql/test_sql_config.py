"""The settings of a Text-to-SQL system."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import deltatune as dt
from deltatune.apps.sql.config import SqlConfig, load_sql_config
from deltatune.errors import ConfigError

PLAIN = {"base": "smollm2", "delta": "lora", "databases": {"funds": "funds.sqlite"}, "output": "runs/sql"}


def write(folder: Path, **settings: object) -> Path:
    file = folder / "sql.yaml"
    file.write_text(yaml.safe_dump({**PLAIN, **settings}))
    return file


def test_the_shortest_settings(tmp_path: Path) -> None:
    config = load_sql_config(write(tmp_path), ["delta.r=4", "prompt.tables=2"])
    assert config.base.model == "smollm2"
    assert config.delta.build() == dt.LoRA(r=4)
    assert (config.prompt.tables, config.prompt.columns) == (2, 7)
    assert config.linker is not None


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    config = load_sql_config(write(tmp_path, linker=None, questions={"synthetic": 5, "files": ["a.jsonl"]}))
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_sql_config(file) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": {"tabels": 3}}, "prompt.tabels: expected one of .*did you mean 'tables'"),
        ({"prompt": {"answer": "prose"}}, "prompt.answer: expected .*sql.*skeleton.*reasoning.*found 'prose'"),
        ({"questions": {"dataset": {"layout": "spyder", "folder": "x"}}}, "questions.dataset.layout: expected"),
        ({"delta": {"method": "lora", "r": 0}}, "delta.r: "),
        ({"output": ""}, "output: expected"),
        ({"train": {"epochs": -1}}, "train.epochs: expected"),
    ],
)
def test_faults_are_named(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sql_config(write(tmp_path, **settings))


def test_all_settings_are_described() -> None:
    schema = SqlConfig.model_json_schema()
    for part in [schema, *schema["$defs"].values()]:
        for name, about in part["properties"].items():
            assert about.get("description"), name
