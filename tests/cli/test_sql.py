"""`deltatune sql` from the first database to the last report, with a small random model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer import testing

from deltatune.apps.sql.asking import Answer
from deltatune.apps.sql.run import Result
from deltatune.apps.sql.scoring.report import read_report
from deltatune.apps.sql.voting import Candidate, Vote
from deltatune.apps.sql.writer import Writer
from deltatune.cli import app
from deltatune.cli.sql.ask import _show
from tests.cli import tiny

VERBS = ("make", "train", "link", "ask", "eval", "transfer")


def call(*arguments: str | Path, code: int = 0) -> testing.Result:
    result = testing.CliRunner().invoke(app, ["sql", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def data_of(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(call(*arguments, "--json", code=code).stdout))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three databases and a base that reads long prompts."""
    folder = tmp_path_factory.mktemp("sql")
    for name in ("funds", "equities", "macro"):
        call("make", name, folder / f"{name}.sqlite", "--size", "tiny")
    tiny.save_llama(folder / "base", max_position_embeddings=8192)
    file = folder / "base" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 8192}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def settings(home: Path, name: str, **more: object) -> Path:
    file = home / f"{name}.yaml"
    plain = {
        "base": str(home / "base"),
        "delta": {"method": "lora", "r": 2, "targets": ["query", "value"]},
        "databases": {"funds": str(home / "funds.sqlite")},
        "questions": {"templates": 1, "synthetic": 5, "paraphrases": 1},
        "prompt": {"budget": 8000},
        "linker": None,
        "train": {"max_steps": 2, "batch_size": 2},
        "output": str(home / name),
    }
    file.write_text(yaml.safe_dump({**plain, **more}))
    return file


@pytest.fixture(scope="module")
def system(home: Path) -> Path:
    call("train", settings(home, "first"))
    return home / "first"


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb: str) -> None:
    shown = call(verb, "--help").output
    assert f"$ deltatune sql {verb}" in shown


def test_train_writes_a_system(system: Path) -> None:
    assert (system / "sql.yaml").is_file()
    assert (system / "writer" / "final" / "adapter_model.safetensors").is_file()
    records = [json.loads(line) for line in (system / "data" / "train.jsonl").read_text().splitlines()]
    assert len(records) > 20
    assert all(record["prompt"].startswith("SQLite tables:") for record in records)
    assert all(record["completion"].startswith(("SELECT", "WITH")) for record in records)


def test_info_tells_of_a_system(home: Path, system: Path) -> None:
    shown = testing.CliRunner().invoke(app, ["info", str(system), "--json"])
    found = json.loads(shown.stdout)
    assert found["kind"] == "Text-to-SQL system"
    assert found["databases"] == {"funds": str(home / "funds.sqlite")}
    assert found["questions"] == len((system / "data" / "train.jsonl").read_text().splitlines())
    assert (found["state"], found["steps"], found["linker"]) == ("finished", 2, "by words")


def test_a_system_is_not_overwritten(home: Path, system: Path) -> None:
    shown = call("train", settings(home, "first"), code=2).output
    assert "expected a new folder, found a system" in shown
    assert "finished already" in call("train", settings(home, "first"), "--resume").output


def test_a_run_that_is_refused_changes_nothing(home: Path, system: Path) -> None:
    call("train", settings(home, "first", databases={"funds": "nowhere.sqlite"}), "--overwrite", code=2)
    assert (system / "data" / "train.jsonl").is_file()
    call("train", settings(home, "third", databases={"funds": "nowhere.sqlite"}), code=2)
    assert not (home / "third").exists()
    for changes in ({"questions": {"files": ["no.jsonl"]}}, {"base": "no/such/base"}):
        call("train", settings(home, "third", **changes), code=2)
        assert not (home / "third").exists()
    shown = call("train", settings(home, "first", prompt={"budget": 8000, "tables": 9}), "--resume", code=2).output
    assert "found others for prompt" in " ".join(shown.split())
    settings(home, "first")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--how", "svd", "how: expected one of"), ("--learning-rate", "0", "learning_rate: expected a number above 0")],
)
def test_settings_of_a_transfer_are_checked_first(
    system: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, message: str
) -> None:
    monkeypatch.setattr("deltatune.apps.sql.opening.open_writer", None)  # before anything is loaded
    shown = call("transfer", "macro=nowhere.sqlite", "-s", system, option, value, code=2).output
    assert message in " ".join(shown.split())


def test_a_system_whose_training_is_not_over_says_so(home: Path) -> None:
    folder = home / "begun"
    folder.mkdir()
    (folder / "sql.yaml").write_text(settings(home, "begun").read_text())
    shown = call("ask", home / "funds.sqlite", "How many?", "--system", folder, code=2).output
    assert "found one whose training is not over" in " ".join(shown.split())


def test_values_are_shown_as_they_are(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(("[b]name[/]",), (("Bond Fund [closed]",), (None,)), "SELECT 1", 0.01, cut=True)
    answer = Answer("?", Vote(Candidate("SELECT 1", (), result, None), ((),)))
    _show(Console(), answer, 20)
    shown = capsys.readouterr().out
    assert "[b]name[/]" in shown
    assert "Bond Fund [closed]" in shown
    assert "2 of more than 2 rows" in shown


def test_ask(home: Path, system: Path) -> None:
    # What a random model writes can not be mended into a query, but nothing breaks, and the prompt is the trained one.
    shown = call("ask", home / "funds.sqlite", "How many funds are there?", "--system", system, "--show-prompt", code=1)
    assert "Question: How many funds are there?" in shown.output
    found = data_of("ask", home / "macro.sqlite", "How many regions?", "--system", system, "-n", "3", code=1)
    assert found["tries"] == 3
    assert found["problem"]
    shown = call("ask", "no.sqlite", "What?", "--system", system, code=2).output
    assert "expected a file, found nothing at no.sqlite" in " ".join(shown.split())


def test_link(home: Path, system: Path) -> None:
    found = data_of("link", "--system", system, "--database", f"macro={home / 'macro.sqlite'}", "--per-template", 1)
    assert set(found) == {"unseen templates", "unseen database"}
    for measured in found.values():
        assert set(measured) == {"words", "words + values"}  # this system has no linker that was trained
        assert all(0.5 < each["tables"]["7"] <= 1 for each in measured.values())
    assert "questions" in call("link", "--system", system, "--per-template", 1).output


def test_eval(home: Path, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = home / "results"
    found = data_of(
        "eval", "--system", system, "--database", f"macro={home / 'macro.sqlite'}", "--per-template", 1, "--limit", 3,
        "-n", 2, "--out", out,
    )  # fmt: skip
    stages = ["base", "+ linking", "+ fine-tuning", "+ constraint", "+ calibration", "+ self-consistency"]
    assert [score["stage"] for score in found["scores"]][::2] == stages
    assert {score["group"] for score in found["scores"]} == {"unseen templates", "unseen database"}
    report = read_report(out / "report.json")
    asked = report.stages["base"]["unseen database"]
    assert {outcome.example.database for outcome in asked} == {"macro"}
    assert "unseen database" in (out / "report.md").read_text()
    assert (out / "report.png").stat().st_size > 1000
    monkeypatch.setattr(Writer, "write", None)  # nothing is asked twice
    again = data_of(
        "eval", "--system", system, "--database", f"macro={home / 'macro.sqlite'}", "--per-template", 1, "--limit", 3,
        "-n", 2, "--stages", "+ linking,+ calibration", "--out", out,
    )  # fmt: skip
    assert again["scores"] == [each for each in found["scores"] if each["stage"] in ("+ linking", "+ calibration")]
    assert read_report(out / "report.json") == report


def test_eval_of_own_questions(home: Path, system: Path) -> None:
    file = tiny.write_jsonl(
        home / "own.jsonl",
        [{"question": "How many funds?", "sql": "SELECT COUNT(*) FROM mf_info", "database": "funds"}],
    )
    found = data_of("eval", "--system", system, "--file", file, "--stages", "+ fine-tuning")
    assert [(score["group"], score["stage"]) for score in found["scores"]] == [("own", "+ fine-tuning")]


def test_a_database_that_was_learned_from_is_not_new(home: Path, system: Path) -> None:
    shown = call("transfer", f"funds={home / 'funds.sqlite'}", "-s", system, code=2).output
    assert "expected a database that is new" in " ".join(shown.split())


def test_resuming_another_method_is_refused(home: Path, system: Path) -> None:
    before = (system / "sql.yaml").read_text()
    shown = call("train", settings(home, "first", delta="ia3"), "--resume", code=2).output
    assert "found others for delta" in " ".join(shown.split())
    assert (system / "sql.yaml").read_text() == before
    settings(home, "first")


def test_transfer(home: Path, system: Path) -> None:
    call("train", settings(home, "second", databases={"equities": str(home / "equities.sqlite")}))
    found = data_of(
        "transfer", f"macro={home / 'macro.sqlite'}", "-s", system, "-s", home / "second", "--shots", "0,4",
        "--per-template", 1, "--epochs", 1, "--out", home / "moved",
    )  # fmt: skip
    assert [score["stage"] for score in found["scores"]] == [
        "first alone, 0 examples",
        "second alone, 0 examples",
        "composed, 0 examples",
        "from scratch, 4 examples",
        "composed by LoRAHub, 4 examples",
        "composed, then trained, 4 examples",
    ]
    assert {each.name for each in (home / "moved").iterdir()} == {"transfer.json", "transfer.md", "transfer.png"}
    assert list(read_report(home / "moved" / "transfer.json").stages) == [each["stage"] for each in found["scores"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("make", "shop", "shop.sqlite"), "database: expected one of funds, equities, macro, found 'shop'"),
        (("ask", "no.sqlite", "What?", "--system", "nowhere"), "nowhere: expected a Text-to-SQL system"),
        (("eval", "--system", "nowhere"), "nowhere: expected a Text-to-SQL system"),
        (("transfer", "macro", "-s", "nowhere"), "macro: expected NAME=DB_URL"),
        (("transfer", "macro=m.db", "-s", "nowhere", "--shots", "few"), "--shots: expected whole numbers"),
    ],
)
def test_bad_input_is_a_line_and_code_2(arguments: tuple[str, ...], message: str) -> None:
    shown = " ".join(call(*arguments, code=2).output.split())
    assert message in shown
    assert "Traceback" not in shown
