"""`deltatune compare` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deltatune.cli import app


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_help_has_examples() -> None:
    assert "$ deltatune compare config.yaml --methods lora,dora,bitfit" in call("--help").output


def test_a_table_a_line_for_each_run_and_where_to_look(classify: Path, folder: Path) -> None:
    shown = call(classify, "-m", "bitfit", "-m", "norm", "--seeds", "0", "--out", folder / "there").output
    assert "[1/2] bitfit, seed 0, learning rate 0.01: accuracy " in shown
    assert "[2/2] norm" in shown
    assert "report.html" in shown
    assert (folder / "there" / "report.html").is_file()


def test_json_alone_on_standard_output(classify: Path, folder: Path) -> None:
    found = json.loads(call(classify, "-m", "bitfit", "--seeds", "0", "--json", "--set", "train.max_steps=2").stdout)
    assert found == json.loads((folder / "out" / "results.json").read_text())


def test_a_failed_run_is_exit_code_1_and_the_rest_goes_on(classify: Path) -> None:
    shown = call(classify, "-m", "lora:targets=nowhere,bitfit", "--seeds", "0", code=1).output
    assert "failed: target 'nowhere'" in shown
    assert "[2/2] bitfit, seed 0, learning rate 0.01: accuracy" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "a"), "--seeds: expected whole numbers with commas, as 0,4,16, found 'a'"),
        (("-m", "lorra"), "did you mean 'lora'?"),
        (("--search", "1e-3"), "learning rates: expected auto, or two or more numbers"),
        (("--metric", "perplexity"), "metric: expected one of accuracy, macro_f1, loss"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_line(classify: Path, arguments: tuple[str, ...], message: str) -> None:
    result = call(classify, *arguments, code=2)
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.strip().splitlines()) == 1
