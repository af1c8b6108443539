"""The demo asks what it has not taught."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.apps.sql.config import SqlConfig
from deltatune.apps.sql.gather import gather
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.source import open_source
from deltatune.apps.sql.split import split_templates
from deltatune.demo.story import ASKED, SETTINGS, held_out


def test_what_is_asked_is_not_among_what_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generate("funds", tmp_path / "funds.sqlite", size="tiny")
    config = SqlConfig.model_validate(
        {**SETTINGS, "databases": {"funds": str(tmp_path / "funds.sqlite")}, "output": str(tmp_path / "sql")}
    )
    with open_source(tmp_path / "funds.sqlite") as source:
        asked = held_out(config, source)
        learned = gather(config.questions, {"funds": source})
    assert {name: len(examples) for name, examples in asked.items()} == {
        "new questions": ASKED,
        "unseen templates": ASKED,
    }
    assert not {example.sql for examples in asked.values() for example in examples} & {each.sql for each in learned}
    taught = {template.name for template in split_templates("train")}
    assert not {example.template for example in asked["unseen templates"]} & taught
    assert {each.difficulty for each in learned} == {"easy", "medium"}
