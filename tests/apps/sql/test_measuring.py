"""What a system is measured on: questions that it has not learned from, and only those that were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.apps.sql.config import SqlConfig
from deltatune.apps.sql.gather import gather
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.measuring import few_shot_questions, question_groups
from deltatune.apps.sql.source import open_source
from deltatune.errors import ConfigError
from tests.cli import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("measuring")
    for name in ("funds", "macro"):
        generate(name, made / f"{name}.sqlite", size="tiny")
    return made


def config(folder: Path) -> SqlConfig:
    return SqlConfig.model_validate(
        {
            "base": "smollm2",
            "delta": "lora",
            "databases": {"funds": str(folder / "funds.sqlite")},
            "questions": {"templates": 3, "hardest": "hard"},
            "output": "out",
        }
    )


def test_nothing_that_was_learned_is_asked(folder: Path) -> None:
    settings = config(folder)
    more = {"macro": str(folder / "macro.sqlite")}
    groups, found = question_groups(settings, databases=more, per_template=3, learned=True)
    assert list(groups) == ["unseen templates", "unseen database", "learned templates"]
    assert found == {"funds": str(folder / "funds.sqlite"), **more}
    with open_source(folder / "funds.sqlite", values=False) as source:
        learned = gather(settings.questions, {"funds": source})
    asked = groups["learned templates"]
    assert len(asked) > 20
    assert {each.template for each in asked} <= {each.template for each in learned}
    assert not {each.question for each in asked} & {each.question for each in learned}
    assert not {each.template for each in groups["unseen templates"]} & {each.template for each in learned}
    assert {each.database for each in groups["unseen database"]} == {"macro"}


def test_files_that_can_not_be_told_apart_are_refused(folder: Path) -> None:
    record = {"question": "How many funds?", "sql": "SELECT COUNT(*) FROM mf_info", "database": "funds"}
    for name in ("a", "b"):
        (folder / name).mkdir()
    files = [tiny.write_jsonl(folder / name / "dev.jsonl", [record]) for name in ("a", "b")]
    with pytest.raises(ConfigError, match=r"--file .*: expected names that tell the files apart, found another dev"):
        question_groups(config(folder), databases={}, files=files)


def test_examples_are_about_the_new_database(folder: Path) -> None:
    records = [
        {"question": "How many?", "sql": "SELECT COUNT(*) FROM mf_info", "database": name} for name in ("funds", "shop")
    ]
    file = tiny.write_jsonl(folder / "few.jsonl", records)
    with (
        open_source(folder / "funds.sqlite", values=False) as source,
        pytest.raises(ConfigError, match=r"few\.jsonl: expected questions about funds, found one about 'shop'"),
    ):
        few_shot_questions("funds", source, support=file, target=file)
