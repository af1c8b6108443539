"""`deltatune generate` with an expert, here and behind an API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import deltatune as dt
from deltatune.cli import app
from tests.cli import tiny
from tests.decoding.server import serving
from tests.models.tools import stir

PROMPT = "red blue"


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["generate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.save_llama(tmp_path_factory.mktemp("big"), chat=False, num_hidden_layers=3)
    base = dt.load_base(folder)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) / 8)
    base.model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("small"), chat=False)


@pytest.fixture(scope="module")
def delta(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base: Any = dt.load_base(small)
    made = stir(dt.attach(base.model, dt.LoRA(r=4), name="colours"), size=1.0)
    return Path(dt.save(made, tmp_path_factory.mktemp("delta") / "colours"))


def proxy_text(big: Path, delta: Path, small: Path, alpha: float = 1.0) -> str:
    base, expert = dt.load_base(big), dt.load_base(small)
    dt.load(expert.model, delta)
    ids = base.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    proxy = dt.ProxyTuned(base, expert, alpha=alpha)
    written = proxy.generate(ids, max_new_tokens=5, do_sample=False)
    return str(base.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))


def test_a_delta_steers_the_base(big: Path, small: Path, delta: Path) -> None:
    for alpha in (1.0, 2.0):
        arguments = (big, PROMPT, "-n", "5", "--expert", small, "--expert-delta", delta, "--alpha", str(alpha))
        assert call(*arguments).stdout.strip("\n") == proxy_text(big, delta, small, alpha).strip("\n")
    by_folder = call(big, PROMPT, "-n", "5", "--expert", delta)
    assert by_folder.stdout.strip("\n") == proxy_text(big, delta, small).strip("\n")
    with_both = call(big, PROMPT, "-n", "5", "--expert", delta, "--antiexpert", small)
    assert with_both.stdout == by_folder.stdout


def test_what_steering_changed_is_shown(big: Path, delta: Path) -> None:
    shown = call(big, PROMPT, "-n", "5", "--expert", delta, "--explain")
    assert "base's choice" in shown.stderr
    assert shown.stdout == call(big, PROMPT, "-n", "5", "--expert", delta).stdout


def test_many_prompts(big: Path, small: Path, delta: Path, tmp_path: Path) -> None:
    file = tiny.write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": PROMPT}, {"prompt": "gold grey pink"}])
    rows = call(big, "--file", file, "-n", "5", "--expert", delta).stdout.splitlines()
    assert json.loads(rows[0]) == {"prompt": PROMPT, "completion": proxy_text(big, delta, small)}
    assert len(rows) == 2


def test_over_an_api(big: Path, delta: Path, tmp_path: Path) -> None:
    base, expert = dt.load_base(big), dt.load_base(_base_of(delta))
    dt.load(expert.model, delta)
    with serving(base.model, base.tokenizer) as server:
        wanted = dt.BlackBox(dt.Endpoint(server.url, "big"), expert).generate(PROMPT, max_new_tokens=3).text
        arguments = ("big", PROMPT, "-n", "3", "--expert", delta, "--api", server.url, "--api-cache", tmp_path / "kept")
        first = call(*arguments)
        assert first.stdout == wanted + "\n"
        asked = len(server.seen)
        again = call(*arguments)
        assert again.stdout == first.stdout
        assert "0 requests, 3 from the cache" in again.stderr
        assert len(server.seen) == asked
        for option in (("--top-k", "3"), ("--system", "x"), ("--top-p", "0.5")):
            assert "beside --api" in call(*arguments, *option, code=2).output


def _base_of(delta: Path) -> str:
    return str(json.loads((delta / "adapter_config.json").read_text())["base_model_name_or_path"])


def test_what_does_not_fit_is_refused(big: Path, small: Path, delta: Path) -> None:
    for option in (("--alpha", "2"), ("--antiexpert", small), ("--expert-delta", delta), ("--map",), ("--api", "x")):
        assert f"{option[0]}: expected --expert" in call(big, PROMPT, *option, code=2).output
    assert "expected a delta on it" in " ".join(call(big, PROMPT, "--expert", small, code=2).output.split())
    assert "--explain" in call(big, PROMPT, "--explain", code=2).output
