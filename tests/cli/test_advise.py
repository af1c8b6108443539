"""`deltatune advise` as a user and as a script see it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from deltatune.cli import app
from deltatune.train.config_file import load_config
from tests.cli.tiny import save_llama

SHORT = ("--seq-len", "16", "--batch-tokens", "32")


def call(*arguments: str | Path) -> tuple[int, str, str]:
    runner = CliRunner(env={"COLUMNS": "160", "NO_COLOR": "1"})
    result = runner.invoke(app, ["advise", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_a_ranking_with_reasons_and_what_is_not_here(tmp_path: Path) -> None:
    code, out, _ = call(save_llama(tmp_path / "base"), "--examples", "5000", "--memory", "24GiB", *SHORT)
    assert code == 0
    assert "low rank comes near full fine-tuning" in out
    assert "https://arxiv.org/abs/2106.09685" in out
    assert out.index("\nnot here") < out.index("bitfit: target")


def test_settings_are_written_and_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "run.yaml"
    base = save_llama(tmp_path / "base")
    code, out, err = call(base, "--write", file, "--data", "my.jsonl", "--method", "ia3", "--json", *SHORT)
    assert code == 0
    assert json.loads(out)["options"]
    assert f"wrote {file}; train with: deltatune train {file}" in err
    config = load_config(file)
    assert config.data.train == "my.jsonl"
    assert config.attached[0].method == "ia3"
    code, _, err = call(base, "--write", file, *SHORT)
    assert code == 2
    assert "expected a new file, found one that is there" in err


def test_bad_input_is_a_line_and_code_2(tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base")
    for arguments, message in (
        (("--memory", "plenty"), "error: device_memory: expected a size"),
        (("--write", tmp_path / "x.yaml", "--method", "magic"), "error: --method: expected one of"),
        (("--api", "--write", tmp_path / "x.yaml"), "error: advice: expected a method that is attached"),
    ):
        code, out, err = call(base, *arguments, *SHORT)
        assert code == 2, arguments
        assert message in err
        assert out == ""
    assert not (tmp_path / "x.yaml").exists()
