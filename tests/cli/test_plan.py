"""`deltatune plan` as a user and as a script see it."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from deltatune.cli import app
from tests.cli.tiny import save_llama

SHORT = ("--seq-len", "32", "--batch-tokens", "64")


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["plan", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_table_with_reasons_and_remarks() -> None:
    code, out, _ = call("smollm2", "--methods", "lora,lora:r=16,targets=all_linear,bitfit", "--memory", "3GB")
    assert code == 0
    assert "smollm2 for causal-lm: 134,515,008 parameters in float32" in out
    assert "460,800" in out
    assert "targets=all_linear r=16" in out
    assert "4,884,480" in out  # twice the 2,442,240 of rank 8
    assert "lora: to fit," in out
    assert "bitfit: target 'all' is" in out


def test_json_has_nothing_beside_it(tmp_path: Path) -> None:
    code, out, _ = call(str(save_llama(tmp_path / "base")), "--methods", "lora", "--json", *SHORT)
    assert code == 0
    data = json.loads(out)
    assert data["methods"][0]["total"] > data["methods"][0]["weights"] > 0
    assert data["memory"] is None


def test_an_explanation_follows_the_table() -> None:
    code, out, _ = call("minilm", "--methods", "lora", "--explain", *SHORT)
    assert code == 0
    assert "peak " in out
    assert "largest at the peak of forward and backward:" in out


def test_bad_input_is_a_line_and_code_2() -> None:
    for arguments, message in (
        (("nowhere/to/be/found",), "error: base 'nowhere/to/be/found': expected"),
        (("smollm2", "--methods", "lorra"), "error: methods: expected some of"),
        (("smollm2", "--methods", "lora:rank=8"), "error: lora.rank: expected one of"),
        (("smollm2", "--dtype", "int3"), "error: dtype: expected"),
        (("smollm2", "--memory", "lots"), "error: device_memory: expected a size"),
        (("smollm2", "--seq-len", "4096"), "error: batch_tokens: expected at least a text, 4096, found 2048"),
    ):
        code, out, err = call(*arguments)
        assert code == 2, arguments
        assert message in err
        assert out == ""
