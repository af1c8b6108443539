"""Every verb as a user calls it: what it writes, what it prints, and how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner, Result

import deltatune as dt
from deltatune.cli import app
from deltatune.train.opening import open_model
from tests.cli import tiny

VERBS = (
    "plan",
    "advise",
    "train",
    "compare",
    "eval",
    "generate",
    "merge",
    "export",
    "info",
    "env",
    "schema",
    "compose",
    "extract",
)


def call(*arguments: str | Path, code: int = 0, text: str | None = None) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)), input=text)
    assert result.exit_code == code, result.output
    return result


def data_of(*arguments: str | Path) -> dict[str, Any]:
    """What a verb prints with --json: nothing but JSON on standard output."""
    return dict(json.loads(call(*arguments, "--json").stdout))


def process(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "COLUMNS": "200"}
    command = [sys.executable, "-m", "deltatune", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


@pytest.fixture(scope="module")
def trained(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.write_jsonl(folder / "train.jsonl", tiny.pairs(16))
    tiny.write_jsonl(folder / "test.jsonl", tiny.pairs(6))
    config = tiny.write_config(folder, llama, data={"eval": str(folder / "test.jsonl")}, train={"learning_rate": 5e-2})
    call("train", config)
    return folder / "out"


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(10, 22).reshape(2, 6)
    return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


# Help.


def test_help_answers_without_the_heavy_libraries() -> None:
    code = (
        "import sys, typer.testing as t; from deltatune.cli import app\n"
        f"for verb in {('', *VERBS)!r}:\n"
        "    assert t.CliRunner().invoke(app, [*verb.split(), '--help']).exit_code == 0\n"
        "print(*({'torch', 'transformers', 'peft', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(verb: str) -> None:
    shown = call(verb, "--help").output
    assert "Examples:" in shown
    assert f"$ deltatune {verb}" in shown


def test_version() -> None:
    assert call("--version").output.strip() == f"deltatune {dt.__version__}"


# Train.


def test_train(folder: Path, llama: Path) -> None:
    shown = call("train", tiny.write_config(folder, llama), "--set", "train.max_steps=2").output
    assert "step 2/2" in shown
    assert "done: train loss" in shown
    assert (folder / "out" / "final" / "adapter_model.safetensors").is_file()


def test_train_prints_only_json_if_asked(folder: Path, llama: Path) -> None:
    found = data_of("train", tiny.write_config(folder, llama), "--set", "train.max_steps=1")
    assert found["metrics"] == json.loads((folder / "out" / "metrics.json").read_text())
    assert Path(found["final"]) == folder / "out" / "final"


def test_dry_run(folder: Path, llama: Path) -> None:
    config = tiny.write_config(folder, llama)
    assert "1,024 parameters at 4 sites" in call("train", config, "--dry-run").output
    assert data_of("train", config, "--dry-run")["steps"] == 6
    assert not (folder / "out").exists()


def test_classification_from_csv(folder: Path, bert: Path) -> None:
    config = tiny.write_config(folder, bert, data={"train": str(folder / "train.csv")}, train={"max_steps": 3})
    call("train", config)
    found = data_of("eval", folder / "out", folder / "train.csv")
    assert found["confusion"]["labels"] == ["cold", "warm"]
    assert sum(map(sum, found["confusion"]["counts"])) == found["examples"] == 32
    assert "true \\ predicted" in call("eval", folder / "out", folder / "train.csv").output
    found = data_of("eval", folder / "out", folder / "train.csv", "--calibrate", folder / "train.csv")["calibration"]
    assert 0 <= found["calibration_error_after"] <= found["calibration_error"] + 0.05
    assert found["temperature"] > 0
    call("eval", folder / "out", folder / "train.csv", "--plot", folder / "plots" / "reliability.png")
    assert (folder / "plots" / "reliability.png").is_file()
    merged = data_of("merge", bert, folder / "out", "--out", folder / "merged")
    assert merged["modules"] > 4  # the head is among them
    base = dt.load_base(bert, task="sequence-classification", id2label={0: "cold", 1: "warm"})
    dt.load(base.model, folder / "out" / "final")
    again = AutoModelForSequenceClassification.from_pretrained(folder / "merged")
    assert again.config.id2label == {0: "cold", 1: "warm"}
    torch.testing.assert_close(logits(again), logits(base.model), rtol=1e-5, atol=1e-5)


def test_killed_and_resumed_is_the_uninterrupted_run(folder: Path, llama: Path) -> None:
    settings: dict[str, Any] = {
        "delta": {"method": "lora", "dropout": 0.2},
        "train": {"epochs": 20, "save_steps": 20, "logging_steps": 5},
    }
    call("train", tiny.write_config(folder, llama, **settings, output=str(folder / "whole")))
    config = tiny.write_config(folder, llama, **settings)
    running = process("train", config)
    wait_for(lambda: (folder / "out" / "checkpoint-20" / "trainer_state.json").exists(), running)
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert not (folder / "out" / "metrics.json").exists()
    assert "going on from" in call("train", config, "--resume").output.replace("\n", " ")
    found, expected = (load_file(folder / run / "final" / "adapter_model.safetensors") for run in ("out", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    steps = [json.loads(line)["step"] for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    assert steps[:-1] == [1, *range(5, 121, 5)]  # the last entry sums up


def test_ctrl_c_says_where_to_go_on(folder: Path, llama: Path) -> None:
    config = tiny.write_config(folder, llama, train={"epochs": 500, "save_steps": 10})
    # What a shell starts in the background ignores the signal, and so do the processes that it starts.
    running = process("train", config, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(lambda: (folder / "out" / "checkpoint-10" / "trainer_state.json").exists(), running)
    running.send_signal(signal.SIGINT)
    _, shown = running.communicate()
    assert running.returncode == 130
    [line] = shown.splitlines()
    assert line.startswith(f"interrupted: the last checkpoint is {folder / 'out' / 'checkpoint-'}")
    assert line.endswith("; go on with --resume")
    assert "Traceback" not in shown


def wait_for(happened: Callable[[], bool], running: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


# Evaluate and generate.


def test_a_run_is_evaluated_as_it_was_in_training(trained: Path, llama: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    for arguments in ([trained], [trained / "final", trained.parent / "test.jsonl"]):
        found = data_of("eval", *arguments)
        assert found["metrics"]["loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
        assert found["deltas"] == ["default"]
    stacked = data_of("eval", llama, trained.parent / "test.jsonl", "--delta", trained)
    assert stacked["metrics"]["loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
    alone = data_of("eval", llama, trained.parent / "test.jsonl")
    assert alone["metrics"]["loss"] > metrics["eval_loss"]
    checkpoint = data_of("eval", trained / "checkpoint-4", trained.parent / "test.jsonl")
    assert checkpoint["metrics"]["loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)


def test_answers_are_kept(trained: Path, tmp_path: Path) -> None:
    found = data_of("eval", trained, "--generate", "--out", tmp_path / "answers.jsonl", "--limit", "3")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [row["reference"] for row in rows] == ["blue", "green", "black"]
    assert found["metrics"]["exact_match"] == sum(row["exact"] for row in rows) / 3


def test_columns_can_be_named(trained: Path, llama: Path, tmp_path: Path) -> None:
    rows = [{"question": pair["prompt"], "answer": pair["completion"]} for pair in tiny.pairs(6)]
    file = tiny.write_jsonl(tmp_path / "other.jsonl", rows)
    renamed = data_of("eval", llama, file, "--column", "prompt=question", "--column", "completion=answer")
    assert renamed["metrics"] == data_of("eval", llama, trained.parent / "test.jsonl")["metrics"]


def test_the_ways_to_give_a_prompt(trained: Path, llama: Path, tmp_path: Path) -> None:
    length = ["-n", "5"]
    said = call("generate", trained, "red blue", *length).stdout
    assert call("generate", trained, *length, text="red blue").stdout == said
    assert call("generate", trained, "-", *length, text="red blue").stdout == said
    assert call("generate", llama, "red blue", "--delta", trained / "final", *length).stdout == said
    chat = [{"role": "user", "content": "red blue"}]
    file = tiny.write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "red blue", "id": 7}, {"messages": chat}])
    shown = call("generate", trained, "--file", file, *length).stdout
    first, second = map(json.loads, shown.splitlines())
    assert first == {"prompt": "red blue", "id": 7, "completion": said.rstrip("\n")}
    assert second["completion"] == first["completion"]
    call("generate", trained, "--file", file, "--out", tmp_path / "out.jsonl", *length)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0]) == first


def test_answers_are_written_to_a_new_file_alone(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "red\u2028blue"}, ensure_ascii=False) + "\n", encoding="utf-8")
    out = tmp_path / "out.jsonl"
    call("generate", trained, "--file", file, "--out", out, "-n", "2")
    assert json.loads(out.read_text(encoding="utf-8"))["prompt"] == "red\u2028blue"
    assert "expected a new file" in call("generate", trained, "--file", file, "--out", out, code=2).stderr
    assert "expected --file with it" in call("generate", trained, "red", "--out", tmp_path / "x", code=2).stderr


def test_classes_are_those_of_the_model(bert: Path, tmp_path: Path) -> None:
    """By the names and in the order that it learned them, whatever the data to be scored hold of them."""
    (tmp_path / "train.csv").write_text(tiny.labelled(32))
    data = {"train": str(tmp_path / "train.csv"), "labels": ["warm", "cold"]}
    config = tiny.write_config(
        tmp_path,
        bert,
        data=data,
        delta={"method": "lora", "targets": ["query", "value", "mlp_up"]},
        train={"epochs": 25},
    )
    call("train", config)
    call("merge", bert, tmp_path / "out", "--out", tmp_path / "merged")
    rows = (tmp_path / "train.csv").read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join([rows[0], *(row for row in rows[1:] if "cold" in row)]) + "\n")
    (tmp_path / "other.csv").write_text(
        "\n".join([*rows, rows[1].replace("warm", "mild").replace("cold", "mild")]) + "\n"
    )
    for model in (tmp_path / "out", tmp_path / "merged"):
        assert data_of("eval", model, tmp_path / "train.csv")["metrics"]["accuracy"] == 1
        assert data_of("eval", model, tmp_path / "one.csv")["metrics"]["accuracy"] == 1
        assert "mild" in call("eval", model, tmp_path / "other.csv", code=2).stderr


def test_the_chat_template_comes_with_the_delta(trained: Path, plain_llama: Path) -> None:
    opened = open_model(str(plain_llama), [str(trained)])
    assert opened.base.tokenizer.chat_template == tiny.CHAT


def test_sampling_is_seeded(llama: Path) -> None:
    def drawn(seed: int) -> str:
        return call("generate", llama, "red", "-n", "8", "-t", "1.5", "--top-k", "50", "--seed", str(seed)).stdout

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_plain_prompt_has_the_tokens_of_training(plain_llama: Path, folder: Path) -> None:
    from deltatune.cli.generate import _tokens
    from deltatune.train.encode import encode_records
    from deltatune.train.records import read_records

    base = dt.load_base(plain_llama)
    example = encode_records(read_records([tiny.pairs(1)[0]]), base.tokenizer).examples[0]
    prompt = _tokens(base, {"prompt": tiny.pairs(1)[0]["prompt"]}, None, None)
    assert example["input_ids"][: len(prompt)] == prompt
    assert example["labels"][: len(prompt) + 1].count(-100) == len(prompt)  # type: ignore[index]


# Merge and export.


def test_a_merged_model_answers_alike_without_deltatune(trained: Path, llama: Path, tmp_path: Path) -> None:
    base = dt.load_base(llama)
    before = logits(base.model)
    dt.load(base.model, trained / "final")
    call("merge", llama, trained, "--out", tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(base.model), rtol=1e-5, atol=1e-5)
    assert float((logits(again) - before).abs().max()) > 1e-3
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == tiny.CHAT


def test_weights_of_a_merge(trained: Path, llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    found = data_of("merge", llama, trained, trained / "checkpoint-4", "-w", "0.25", "-w", "0.75", "--out", out)
    assert found["weights"] == {"default": 0.25, "default-2": 0.75}
    base = dt.load_base(llama)
    dt.load(base.model, trained / "final")  # the same tensors, so the shares add up to all of them
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(out)), logits(base.model), rtol=1e-5, atol=1e-5
    )


def test_peft_reads_an_export(trained: Path, llama: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    call("export", trained, "--out", tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "adapter")
    base = dt.load_base(llama)
    dt.load(base.model, trained / "final")
    torch.testing.assert_close(logits(theirs), logits(base.model), rtol=1e-5, atol=1e-5)


def test_exports_in_other_forms(trained: Path, tmp_path: Path) -> None:
    call("export", trained / "final", "--out", tmp_path / "half", "--dtype", "bfloat16")
    tensors = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert data_of("export", trained, "--out", tmp_path / "whole", "--as", "model")["modules"] == 4
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")


def test_nothing_is_overwritten_unasked(trained: Path, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        shown = call("merge", llama, trained, "--out", tmp_path, *extra, code=2).stderr
        assert "found a folder of other things; name another" in shown.replace("\n", " ")
    out = tmp_path / "merged"
    call("merge", llama, trained, "--out", out)
    assert "add --overwrite" in call("merge", llama, trained, "--out", out, code=2).stderr
    call("merge", llama, trained, "--out", out, "--overwrite")


# Info, env and schema.


def test_info_tells_what_a_folder_is(trained: Path, llama: Path) -> None:
    delta, run, base = (data_of("info", path) for path in (trained / "final", trained, llama))
    assert (delta["kind"], delta["method"], delta["parameters"]) == ("delta", "lora", 1024)
    assert delta["settings"]["r"] == 4
    assert delta["tensors"]["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"] == [4, 32]
    assert (run["kind"], run["state"], run["steps"]) == ("run", "finished", 4)
    assert run["checkpoints"] == ["checkpoint-4"]
    assert (base["kind"], base["parameters"], base["task"]) == ("base", 36_128, "causal-lm")
    assert "2 × model.layers.*.self_attn.q_proj.lora_A.weight [4, 32]" in call("info", trained / "final").output


def test_env_is_fit_for_a_bug_report() -> None:
    found = data_of("env")
    assert found["deltatune"] == dt.__version__
    assert found["packages"]["torch"] == torch.__version__
    assert torch.__version__ in call("env").output.replace("\n", "")


def test_schema(tmp_path: Path) -> None:
    printed = json.loads(call("schema").stdout)
    call("schema", "--out", tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text()) == printed
    assert printed["required"] == ["base", "data", "output"]
    shown = call("schema", "--out", tmp_path / "schema.json", code=2).output
    assert "expected a new file, found one that is there" in " ".join(shown.split())


@pytest.mark.parametrize(("what", "page"), [("run", "settings.md"), ("sql", "sql-settings.md")])
def test_the_pages_of_settings_are_what_is_printed(what: str, page: str) -> None:
    written = (Path(__file__).parent.parent.parent / "docs" / page).read_text(encoding="utf-8")
    assert call("schema", what, "--markdown").stdout == written
    assert f"deltatune schema {what} --markdown" in written


# Failures.

BAD: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "no config": lambda f, m: ["train", f / "none.yaml"],
    "a folder for a config": lambda f, m: ["train", f],
    "no YAML": lambda f, m: ["train", _written(f / "bad.yaml", "base: [")],
    "no settings": lambda f, m: ["train", _written(f / "bad.yaml", "")],
    "bad settings": lambda f, m: ["train", tiny.write_config(f, m, train={"learning_rate": "fast"})],
    "bad override": lambda f, m: ["train", tiny.write_config(f, m), "--set", "train.epochs"],
    "bad method": lambda f, m: ["train", tiny.write_config(f, m), "--set", "delta.method=lorra"],
    "bad targets": lambda f, m: ["train", tiny.write_config(f, m), "--set", "delta.targets=nothing"],
    "no data": lambda f, m: ["train", tiny.write_config(f, m), "--set", "data.train=none.jsonl"],
    "bad data": lambda f, m: [
        "train",
        tiny.write_config(f, m, data={"train": str(_written(f / "bad.jsonl", '{"prompt": 1}\n{'))}),
    ],
    "data of another kind": lambda f, m: [
        "train",
        tiny.write_config(f, m),
        "--set",
        "base.task=sequence-classification",
    ],
    "no base": lambda f, m: ["train", tiny.write_config(f, f / "none.gguf")],
    "output is a file": lambda f, m: ["train", tiny.write_config(f, m), "--set", f"output={f / 'train.csv'}"],
    "eval without data": lambda f, m: ["eval", m],
    "eval on no file": lambda f, m: ["eval", m, f / "none.jsonl"],
    "eval with no delta": lambda f, m: ["eval", m, f / "test.jsonl", "--delta", f],
    "eval of a bad column": lambda f, m: ["eval", m, f / "test.jsonl", "--column", "prompt"],
    "eval of a bad format": lambda f, m: ["eval", m, f / "test.jsonl", "--format", "poem"],
    "eval of a broken delta": lambda f, m: ["eval", _broken_delta(f), f / "test.jsonl"],
    "eval of a random head": lambda f, m: ["eval", m, f / "train.csv"],
    "predictions of nothing": lambda f, m: ["eval", m, f / "test.jsonl", "--out", f / "x.jsonl"],
    "generate nothing": lambda f, m: ["generate", m, ""],
    "generate twice": lambda f, m: ["generate", m, "red", "--file", f / "test.jsonl"],
    "generate from no file": lambda f, m: ["generate", m, "--file", f / "none.jsonl"],
    "generate from CSV": lambda f, m: ["generate", m, "--file", f / "train.csv"],
    "generate from other JSON": lambda f, m: ["generate", m, "--file", _written(f / "x.jsonl", '{"a": 1}')],
    "bad dtype": lambda f, m: ["generate", m, "red", "--dtype", "float8"],
    "merge nothing": lambda f, m: ["merge", m, f, "--out", f / "x"],
    "export a base": lambda f, m: ["export", m, "--out", f / "x"],
    "export as a poem": lambda f, m: ["export", m, "--out", f / "x", "--as", "poem"],
    "info on nothing": lambda f, m: ["info", f],
    "unknown verb": lambda f, m: ["trian"],
    "unknown option": lambda f, m: ["train", "--fast"],
}


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def _broken_delta(folder: Path) -> Path:
    (folder / "delta").mkdir()
    return _written(folder / "delta" / "adapter_model.safetensors", "junk").parent


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_lines_without_a_traceback(case: str, folder: Path, llama: Path) -> None:
    result = call(*BAD[case](folder, llama), code=2)
    assert "Traceback" not in result.output
    assert result.stdout == ""
    if "unknown" not in case:
        lines = result.stderr.splitlines()
        assert lines
        assert all(line.startswith("error: ") for line in lines)
    assert not (folder / "out").exists()


def test_all_faults_are_told(folder: Path, llama: Path) -> None:
    config = tiny.write_config(folder, llama, delta={"r": 0, "alfa": 1}, train={"learning_rate": "fast", "epoch": 3})
    lines = call("train", config, code=2).stderr.splitlines()
    for part in ("delta.r", "delta.alfa", "train.learning_rate", "train.epoch"):
        assert any(f"config.yaml: {part}: " in line for line in lines)


def test_a_delta_of_another_base_is_refused(trained: Path, t5: Path, tmp_path: Path) -> None:
    shown = call("merge", t5, trained, "--out", tmp_path / "x", code=2).stderr
    assert "expected LlamaForCausalLM" in shown


def test_weights_must_fit_the_deltas(trained: Path, llama: Path, tmp_path: Path) -> None:
    shown = call("merge", llama, trained, "-w", "1", "-w", "2", "--out", tmp_path / "x", code=2).stderr
    assert "--weight: expected one for each of 1 deltas (default), found 2" in shown


def test_an_unfinished_run_names_its_checkpoints(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint-3").mkdir(parents=True)
    (run / "config.yaml").write_text((trained / "config.yaml").read_text())
    (run / "log.jsonl").write_text('{"step": 3, "loss": 1.5}\n')
    assert "checkpoints: checkpoint-3; name one of these" in call("eval", run, code=2).stderr
    assert data_of("info", run)["state"] == "unfinished"
    assert data_of("info", run)["metrics"] == {"loss": 1.5}


def test_a_failed_run_exits_with_1_and_hints_at_debug(
    folder: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltatune.train import run as runs

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the sky fell\nin pieces")

    monkeypatch.setattr(runs, "set_up", fail)
    config = tiny.write_config(folder, llama)
    assert call("train", config, code=1).stderr == "error: RuntimeError: the sky fell; add --debug for the traceback\n"
    result = CliRunner().invoke(app, ["train", str(config), "--debug"])
    assert isinstance(result.exception, RuntimeError)


def test_running_out_of_memory_says_what_to_do(folder: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltatune.train import run as runs

    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(runs, "set_up", fail)
    assert "lower the batch size" in call("train", tiny.write_config(folder, llama), code=1).stderr


@pytest.mark.models
@pytest.mark.slow
def test_with_a_real_model(folder: Path) -> None:
    settings: dict[str, Any] = {"train": {"max_steps": 1, "batch_size": 1}, "data": {"limit": 2}}
    call("train", tiny.write_config(folder, Path("smollm2"), **settings))
    assert call("generate", folder / "out", "Say hello.", "-n", "4").stdout.strip()
