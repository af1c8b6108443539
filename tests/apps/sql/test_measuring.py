"""What a system is measured on: questions that it has not learned from, and only those that were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from deltatune.apps.sql.config import SqlConfig
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.gather import gather
from deltatune.apps.sql.generate import generate
from deltatune.apps.sql.measuring import few_shot_questions, graded, question_groups, spelled, that_run
from deltatune.apps.sql.source import open_source
from deltatune.errors import ConfigError, DataError
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


def test_paraphrases_that_training_saw_are_not_asked_either(folder: Path) -> None:
    settings = config(folder)
    settings = settings.model_copy(update={"questions": settings.questions.model_copy(update={"paraphrases": 5})})
    groups, _ = question_groups(settings, databases={}, per_template=3, learned=True)
    with open_source(folder / "funds.sqlite", values=False) as source:
        learned = gather(settings.questions, {"funds": source})
    assert groups["learned templates"]
    assert not {each.sql for each in groups["learned templates"]} & {each.sql for each in learned}


def test_what_training_saw_is_not_asked_by_mistake(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--split: expected dev or test, found 'train'"):
        question_groups(config(folder), databases={}, split="train")
    with pytest.raises(ConfigError, match="--learned: expected questions that training did not see, found none"):
        question_groups(config(folder), databases={}, per_template=3, learned=True, seed=0)


def test_a_record_is_in_the_dialect_of_its_database(folder: Path, tmp_path: Path) -> None:
    record = {"question": "Which is highest?", "sql": "SELECT x FROM t ORDER BY x DESC", "database": "shop"}
    databases = {"shop": "postgresql://me@localhost/shop", "funds": str(folder / "funds.sqlite")}
    records = [
        record,
        record | {"dialect": "sqlite"},
        record | {"dialect": "postgresql"},
        record | {"database": "funds"},
    ]
    groups, _ = question_groups(
        config(folder), databases=databases, files=[tiny.write_jsonl(tmp_path / "own.jsonl", records)]
    )
    assert [each.dialect for each in groups["own"]] == ["postgres", "sqlite", "postgres", "sqlite"]
    wrong = tiny.write_jsonl(tmp_path / "wrong.jsonl", [record | {"dialect": "sequel"}])
    with pytest.raises(DataError, match="expected a dialect such as sqlite, duckdb, postgresql, found 'sequel'"):
        question_groups(config(folder), databases=databases, files=[wrong])


def test_questions_whose_right_sql_does_not_run_are_told_apart(folder: Path) -> None:
    run = Example("How many?", "SELECT COUNT(*) FROM mf_info", "funds")
    text = Example("Which?", 'SELECT fnd_code FROM mf_info WHERE fnd_type = "bond"', "funds")
    not_run = Example("What?", "SELECT nothing FROM mf_info", "funds")
    with open_source(folder / "funds.sqlite", values=False) as source:
        sources = {"funds": source}
        groups, wrong = that_run(spelled({"a": [run, text, not_run], "b": [not_run]}, sources), sources)
    assert {name: [each.question for each in examples] for name, examples in groups.items()} == {
        "a": ["How many?", "Which?"]
    }
    assert len(wrong) == 2
    assert "SELECT nothing FROM mf_info" in wrong[0]


def test_a_database_is_called_as_the_settings_call_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DELTATUNE_CACHE", str(tmp_path))
    spec = config(folder).questions.model_copy(update={"templates": 0, "synthetic": 3})
    with open_source(folder / "funds.sqlite", name="shop") as source:
        assert {each.database for each in gather(spec, {"shop": source})} == {"shop"}
        assert source.values is not None
        assert source.values.database == "shop"
    with open_source(folder / "funds.sqlite") as source:
        assert source.values is not None
        assert source.values.database == "funds"


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


def test_a_question_without_a_difficulty_gets_one() -> None:
    easy, named = (
        Example("How many?", "SELECT COUNT(*) FROM t", "x"),
        Example("?", "SELECT 1", "x", difficulty="moderate"),
    )
    (one, other) = graded({"a": [easy, named]})["a"]
    assert (one.difficulty, other.difficulty) == ("easy", "moderate")
    with pytest.raises(DataError, match="expected SQL that parses"):
        graded({"a": [Example("?", "SELECT FROM WHERE", "x")]})
