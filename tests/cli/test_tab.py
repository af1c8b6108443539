"""`deltatune tab` as a user calls it, with a small random model."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from deltatune.cli.tab import app
from tests.cli import tiny

VERBS = ("show", "fit", "predict", "eval")

main = typer.Typer()
main.add_typer(app)


@main.command("other")
def _other() -> None:
    """Without a second command, typer would leave out the name of the first."""


def call(*arguments: str | Path | int, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["tab", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def data_of(*arguments: str | Path | int, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(call(*arguments, "--json", code=code).stdout))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models that read rows, and a table."""
    folder = tmp_path_factory.mktemp("tab")
    tiny.save_llama(folder / "llama", chat=False, max_position_embeddings=512)
    tiny.save_bert(folder / "bert")
    for name in ("llama", "bert"):
        file = folder / name / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 512}))
    rng = np.random.default_rng(0)
    size = rng.permutation(60)
    table = pd.DataFrame({"size": size, "colour": rng.choice(["red", "blue"], 60), "paid": (size > 29).astype(int)})
    table.to_csv(folder / "loans.csv", index=False)
    return folder


def asked(home: Path) -> list[str | Path]:
    return [home / "loans.csv", "--target", "paid", "-q", "Was it paid back?", "-a", "1=yes", "-a", "0=no"]


def fitted(home: Path, name: str, *more: str | Path | int) -> Path:
    out = home / name
    call("fit", *asked(home), "--out", out, *more)
    return out


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys, typer.testing as t; from deltatune.cli.tab import app\n"
        f"for verb in {('', *VERBS)!r}:\n"
        "    assert t.CliRunner().invoke(app, [*verb.split(), '--help']).exit_code == 0\n"
        "print(*({'torch', 'transformers', 'peft', 'numpy', 'yaml', 'pandas', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb: str) -> None:
    assert f"$ deltatune tab {verb}" in call(verb, "--help").output


def test_show(home: Path) -> None:
    model = ["--model", f"tabllm:base={home / 'llama'},serializer=list"]
    found = data_of("show", *asked(home), *model, "--row", 3)
    row = pd.read_csv(home / "loans.csv").iloc[3]
    assert found["text"] == f"- size: {row['size']}\n- colour: {row['colour']}"
    assert [(column["name"], column["kind"]) for column in found["columns"]] == [
        ("size", "integer"),
        ("colour", "category"),
    ]
    assert (found["rows"], found["classes"], found["answers"]) == (60, {"0": 30, "1": 30}, {"1": "yes", "0": "no"})
    assert 0 < found["tokens"] <= found["most_tokens"]
    shown = call("show", *asked(home), *model).output
    assert "question: Was it paid back?" in shown
    assert "answer for 1: yes" in shown
    plain = data_of("show", home / "loans.csv", "--target", "paid", *model)
    assert (plain["question"], plain["answers"]) == ("What is the paid: 0 or 1?", {"0": "0", "1": "1"})
    nowhere = call("show", *asked(home), "--model", f"tabllm:base={home / 'nowhere'}").output
    assert "The colour is" in nowhere  # a table can be looked at without any model
    assert "tokens: " in nowhere


def test_fit_and_predict(home: Path) -> None:
    model = f"tabllm:base={home / 'llama'},steps=2,method={{method: lora, r: 2}}"
    folder = fitted(home, "learned", "--model", model, "--shots", 8)
    assert (folder / "adapter_model.safetensors").is_file()
    table = pd.read_csv(home / "loans.csv")
    shown = pd.read_csv(io.StringIO(call("predict", folder, home / "loans.csv", "--proba").stdout))
    assert list(shown) == ["prediction", "probability of 0", "probability of 1"]
    assert len(shown) == len(table)
    np.testing.assert_allclose(shown["probability of 0"] + shown["probability of 1"], 1)
    likelier = (shown["probability of 1"] > shown["probability of 0"]).astype(int)
    assert shown["prediction"].tolist() == likelier.tolist()
    for name in ("new.csv", "new.tsv", "new.jsonl", "new.parquet"):
        call("predict", folder, home / "loans.csv", "--out", home / name)
    written = [
        pd.read_csv(home / "new.csv"),
        pd.read_csv(home / "new.tsv", sep="\t"),
        pd.read_json(home / "new.jsonl", lines=True),
        pd.read_parquet(home / "new.parquet"),
    ]
    for each in written:
        pd.testing.assert_frame_equal(
            each, table.assign(prediction=shown["prediction"]), check_dtype=False, check_names=False
        )
    table.set_index(table.index % 3).to_parquet(home / "twice.parquet")  # three names for all rows
    call("predict", folder, home / "twice.parquet", "--out", home / "once.csv")
    assert pd.read_csv(home / "once.csv")["prediction"].tolist() == shown["prediction"].tolist()
    found = data_of("predict", folder, home / "new.csv")
    assert found["predictions"]["prediction"] == shown["prediction"].tolist()
    assert sum(found["counts"].values()) == found["rows"] == 60
    shown = call("predict", folder, home / "new.csv", "--out", home / "again.csv", code=2).output
    assert "expected no column called 'prediction'" in " ".join(shown.split())


def test_fit_without_shots_and_with_a_head(home: Path) -> None:
    folder = fitted(home, "zero", "--model", f"tabllm:base={home / 'llama'}", "--shots", 0)
    assert not (folder / "adapter_model.safetensors").exists()
    assert data_of("predict", folder, home / "loans.csv")["rows"] == 60
    again = data_of(
        "fit", *asked(home), "--out", folder, "--overwrite", "-k", 4, "-m", f"encoder:base={home / 'bert'},steps=2"
    )
    assert (again["rows"], again["steps"], again["classes"]) == (4, 2, [0, 1])
    assert data_of("predict", folder, home / "loans.csv")["rows"] == 60


def test_eval(home: Path) -> None:
    out = home / "results"
    arguments = [
        "eval", *asked(home), "--seeds", "0,1", "--test-rows", 8, "--out", out,
        "-m", f"tabllm:base={home / 'llama'},steps=1,logistic", "-m", f"encoder:base={home / 'bert'},steps=1",
    ]  # fmt: skip
    found = data_of(*arguments, "--shots", "0,4")
    label = f"tabllm base={home / 'llama'} steps=1"
    assert {(each["model"], each["shots"]) for each in found["scores"]} == {
        (label, 0),
        (label, 4),
        ("logistic regression", 4),
        (f"encoder base={home / 'bert'} steps=1", 4),
    }
    assert {each["test_rows"] for each in found["results"]} == {8}
    assert [each["baseline"] for each in found["against the best baseline"]] == ["logistic regression"] * 2
    lines = (out / "results.jsonl").read_text().splitlines()
    shown = call(*arguments, "--shots", "0,4,all").output
    assert "done: see" in shown
    assert len((out / "results.jsonl").read_text().splitlines()) == len(lines) + 6
    assert "| loans | logistic regression | – |" in (out / "report.md").read_text()
    assert json.loads((out / "report.json").read_text())["about"]["seeds"] == "0, 1"
    assert (out / "report.png").stat().st_size > 1000


def test_eval_tells_of_failures(home: Path) -> None:
    shown = call("eval", *asked(home), "--models", "logistic", "--shots", "4,900", "--seeds", 0, code=1).output
    assert "loans: logistic regression: failed at k = 900 (seed 0): shots: expected at most 48" in shown


def test_a_table_by_a_query(home: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    file = home / "shop.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute(f"create table loans as select * from read_csv('{home / 'loans.csv'}')")
    found = data_of(
        "eval", file, "--query", "select size, paid from loans", "-t", "paid", "-m", "logistic", "--shots", "8",
        "--seeds", 0,
    )  # fmt: skip
    assert found["scores"][0]["mean"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "cars"), "cars: expected a data set ("),
        (("show", "heart", "-t", "ill"), "heart: expected no --target for a data set that is known"),
        (("show", "{table}", "-t", "paid", "-a", "1=yes", "-a", "0=yes"), "answers: expected different texts"),
        (("show", "{table}"), "or a file with --target"),
        (("show", "{table}", "-t", "paid", "-r", "60"), "--row 60: expected one below 60"),
        (("show", "{table}", "-t", "paid", "-a", "yes"), "--answer yes: expected CLASS=TEXT"),
        (("show", "{table}", "-t", "paid", "-a", "1=yes"), "answers: expected one for each class of 0, 1"),
        (("eval", "{table}", "-t", "paid", "--shots", "4,x"), "--shots: expected whole numbers with commas"),
        (("eval", "{table}", "-t", "paid", "-m", "tree"), "found 'tree'"),
        (("fit", "{table}", "-t", "paid", "-m", "forest", "-o", "{home}/new"), "expected tabllm or encoder"),
        (("fit", "{table}", "-t", "paid", "-m", "tabllm,encoder", "-o", "{home}/new"), "expected one, found 2"),
        (("fit", "{table}", "-t", "paid", "-o", "{home}"), "expected a new folder, found a folder of other things"),
        (("predict", "{home}/nowhere", "{table}"), "classifier.json"),
    ],
)
def test_what_can_not_be_done(home: Path, arguments: tuple[str, ...], message: str) -> None:
    filled = [each.format(home=home, table=home / "loans.csv") for each in arguments]
    shown = call(*filled, code=2).output
    assert message in shown.replace("\n", " ")
    assert not (home / "new").exists()


def test_columns_of_the_training_data_are_needed(home: Path) -> None:
    folder = fitted(home, "small", "--model", f"tabllm:base={home / 'llama'}", "--shots", 0)
    file = home / "other.csv"
    file.write_text("colour\nred\n")
    assert "found none called size; add it" in call("predict", folder, file, code=2).output
    assert "expected a file ending in .csv" in call("predict", folder, home / "loans.csv", "-o", "a.txt", code=2).output
    shown = call("fit", *asked(home), "--out", folder, code=2).output
    assert "found a classifier; name another, or add --overwrite" in shown.replace("\n", " ")


def test_a_data_set_by_its_name(home: Path) -> None:
    model = ["--model", f"tabllm:base={home / 'llama'}"]
    found = data_of("show", "iris", *model)
    assert found["rows"] == 150
    assert found["question"]
    assert any(column["unit"] for column in found["columns"])
    unit = next(column["unit"] for column in found["columns"] if column["unit"])
    assert f" {unit}." in found["text"]
    asked_otherwise = data_of("show", "iris", *model, "-q", "Which iris?")
    assert (asked_otherwise["question"], asked_otherwise["answers"]) == ("Which iris?", found["answers"])
    scores = data_of("eval", "iris", "-m", "logistic", "--shots", "6", "--seeds", "0,1")["scores"]
    assert scores[0]["mean"] > 0.7
