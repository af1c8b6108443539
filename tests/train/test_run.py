"""A run from settings to its folder, on small random models."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import TrainerCallback

import deltatune as dt
from deltatune.errors import ConfigError, DataError, SiteError
from deltatune.methods import METHODS
from deltatune.planning.dry_run import dry_run
from deltatune.sizes import size_text
from deltatune.train import run as runs
from deltatune.train.arguments import total_steps, training_arguments
from deltatune.train.complete import complete
from deltatune.train.config import RunConfig
from deltatune.train.config_file import load_config, parse_config
from deltatune.train.encode import encode_records
from deltatune.train.evaluate import Confusion, evaluate
from deltatune.train.folder import RunFolder
from deltatune.train.opening import delta_folders
from deltatune.train.records import read_records
from deltatune.train.setup import read_data
from tests.cli import tiny


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "llama": tiny.save_llama(folder / "llama"),
        "bert": tiny.save_bert(folder / "bert"),
        "t5": tiny.save_t5(folder / "t5"),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.pairs(24))
    (tmp_path / "train.csv").write_text(tiny.labelled(32))
    return tmp_path


def config_of(folder: Path, base: Path, **changes: Any) -> RunConfig:
    return load_config(tiny.write_config(folder, base, **changes))


def run(config: RunConfig, **options: Any) -> tuple[runs.RunResult, str]:
    """Run, and give what was printed too."""
    out = io.StringIO()
    return runs.run(config, console=Console(file=out, width=200), **options), out.getvalue()


def tensors(final: Path) -> dict[str, torch.Tensor]:
    return load_file(final / "adapter_model.safetensors")


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_it_promises(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["llama"], data={"eval_share": 0.25}, train={"save_steps": 2, "eval_steps": 2})
    result, shown = run(config)
    out = folder / "out"
    assert {path.name for path in out.iterdir()} == {
        "config.yaml",
        "log.jsonl",
        "metrics.json",
        "loss.png",
        "final",
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-5",
    }
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "metrics.json").read_text()) == result.metrics
    assert load_config(out / "config.yaml") == load_config(out / "final" / "config.yaml") == config
    losses = {entry["step"] for entry in logged(out) if "loss" in entry}
    evaluated = {entry["step"] for entry in logged(out) if "eval_loss" in entry}
    assert losses == {1, 2, 4, 5}
    assert evaluated == {2, 4, 5}
    assert result.metrics["steps"] == total_steps(config, training_arguments(config), [{}] * 18) == 5
    for part in ("36,128 parameters", "1,024 parameters at 4 sites", "18 examples", "6 examples", "5 of 4 examples"):
        assert part in shown
    assert "<|user|>blue red<|assistant|>⟦green</s>⟧" in shown
    card = (out / "final" / "README.md").read_text()
    assert "| Trained on | train.jsonl: 18 examples" in card
    assert "| Eval loss | " in card
    assert (out / "final" / "chat_template.jinja").read_text() == tiny.CHAT


def test_the_result_is_what_was_evaluated(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["llama"], data={"eval": str(folder / "train.jsonl")})
    result, _ = run(config)
    base = dt.load_base(bases["llama"])
    before = evaluate(base, data := encode_records(read_records(folder / "train.jsonl"), base.tokenizer))
    dt.load(base.model, result.final)
    found = {size: evaluate(base, data, batch_size=size).metrics for size in (1, 5, 24)}
    for metrics in found.values():
        assert metrics["loss"] == pytest.approx(result.metrics["eval_loss"], rel=1e-5)
        assert metrics["token_accuracy"] == result.metrics["eval_token_accuracy"]
    assert result.metrics["eval_loss"] < before.metrics["loss"]


def test_the_loss_is_the_mean_over_supervised_tokens(bases: dict[str, Path], folder: Path) -> None:
    base = dt.load_base(bases["llama"])
    data = encode_records(read_records(folder / "train.jsonl"), base.tokenizer)
    total = count = 0.0
    for example in data.examples:
        ids = torch.tensor([example["input_ids"]])
        with torch.no_grad():
            logits = base.model(input_ids=ids).logits[0, :-1].double()
        labels = torch.tensor(example["labels"])[1:]
        total += float(torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum"))
        count += int((labels != -100).sum())
    assert evaluate(base, data).metrics["loss"] == pytest.approx(total / count, rel=1e-5)
    assert data.supervised == count


def test_resuming_is_the_uninterrupted_run(folder: Path, bases: dict[str, Path]) -> None:
    settings: dict[str, Any] = {
        "delta": {"method": "lora", "r": 4, "dropout": 0.3},
        "train": {"epochs": 2, "save_steps": 3, "logging_steps": 1},
    }
    whole, _ = run(config_of(folder, bases["llama"], **settings, output=str(folder / "whole")))
    config = config_of(folder, bases["llama"], **settings)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "AtTheEnd", Stop)
        with pytest.raises(runs.Interrupted, match="checkpoint-3; go on with --resume"):
            run(config)
    assert not (folder / "out" / "metrics.json").exists()
    assert [entry["step"] for entry in logged(folder / "out")] == [1, 2, 3, 4]
    with (folder / "out" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')  # the last words of a process that was killed
    result, shown = run(config, resume=True)
    assert "going on from" in shown
    assert [entry["step"] for entry in logged(folder / "out") if "loss" in entry] == list(range(1, 13))
    assert result.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-6)
    found, expected = tensors(result.final), tensors(whole.final)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_resuming_without_a_checkpoint_starts_afresh(folder: Path, bases: dict[str, Path]) -> None:
    result, shown = run(config_of(folder, bases["llama"], train={"max_steps": 1}), resume=True)
    assert "no checkpoint to go on from: from the start" in shown
    assert result.metrics["steps"] == 1


def test_a_finished_run_is_not_lost(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["llama"], train={"max_steps": 1})
    first, _ = run(config)
    (folder / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="found a finished run; go on with it by --resume, delete it by --overwrite"):
        run(config)
    with pytest.raises(ConfigError, match="--resume and --overwrite"):
        run(config, resume=True, overwrite=True)
    with pytest.raises(DataError):
        run(config_of(folder, bases["llama"], data={"train": str(folder / "none.jsonl")}), overwrite=True)
    assert RunFolder(folder / "out").is_finished  # what was refused has deleted nothing
    again, shown = run(config, resume=True)
    assert again == first
    assert "finished already" in shown
    run(config_of(folder, bases["llama"], train={"max_steps": 2}), overwrite=True)
    assert (folder / "out" / "notes.txt").read_text() == "mine"
    assert not (folder / "out" / "checkpoint-1").exists()


def test_a_result_that_is_missing_is_made_from_the_last_checkpoint(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["llama"], train={"max_steps": 2})
    first, _ = run(config)
    expected = tensors(first.final)
    (folder / "out" / "metrics.json").unlink()
    (first.final / "adapter_model.safetensors").unlink()
    again, _ = run(config, resume=True)
    assert again.metrics["steps"] == 2
    assert all(torch.equal(expected[name], tensor) for name, tensor in tensors(again.final).items())


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"delta": {"method": "lora", "r": 4, "alpha": 32}}, "delta.alpha"),
        ({"train": {"epochs": 2, "save_steps": 3, "learning_rate": 1.0}}, "train.learning_rate"),
        ({"data": {"eval_share": 0.5}}, "data.eval_share"),
        ({"train": {"epochs": 2, "save_steps": 3, "extra": {"adam_beta2": 0.9}}}, "train.extra.adam_beta2"),
    ],
)
def test_other_settings_are_not_resumed(
    folder: Path, bases: dict[str, Path], changes: dict[str, Any], names: str
) -> None:
    settings: dict[str, Any] = {"delta": {"method": "lora", "r": 4}, "train": {"epochs": 2, "save_steps": 3}}
    run(config_of(folder, bases["llama"], **settings))
    before = (folder / "out" / "config.yaml").read_text()
    with pytest.raises(
        ConfigError, match=f"--resume: expected the settings .*, found others for {names}; take the old"
    ):
        run(config_of(folder, bases["llama"], **{**settings, **changes}), resume=True)
    assert (folder / "out" / "config.yaml").read_text() == before
    longer = {**settings, "train": {"epochs": 3, "save_steps": 3, "logging_steps": 2}}
    result, _ = run(config_of(folder, bases["llama"], **longer), resume=True)
    assert result.metrics["epochs"] == 3


def test_a_run_is_as_long_as_extra_says(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["llama"], train={"epochs": 1, "extra": {"num_train_epochs": 2}})
    whole, shown = run(config)
    assert whole.metrics["epochs"] == 2
    assert f"{whole.metrics['steps']} of 4 examples" in shown
    shutil.rmtree(whole.final)
    (folder / "out" / "metrics.json").unlink()
    shutil.rmtree(sorted((folder / "out").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[-1])
    again, _ = run(config, resume=True)
    assert again.metrics["steps"] == whole.metrics["steps"]


def test_the_best_checkpoint_is_what_is_scored_and_kept(folder: Path, bases: dict[str, Path]) -> None:
    # The highest loss counts as the best here, so that the best is not the last.
    extra = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    train = {"epochs": 6, "eval_steps": 3, "save_steps": 3, "extra": extra}
    config = config_of(folder, bases["llama"], data={"eval_share": 0.25}, train=train)
    result, _ = run(config)
    losses = [entry["eval_loss"] for entry in logged(folder / "out") if "eval_loss" in entry]
    assert result.metrics["eval_loss"] == max(losses) > losses[-1]
    expected = tensors(result.final)
    shutil.rmtree(result.final)
    (folder / "out" / "metrics.json").unlink()
    again, _ = run(config, resume=True)
    assert again.metrics["eval_loss"] == max(losses)
    assert all(torch.equal(expected[name], tensor) for name, tensor in tensors(again.final).items())


def test_more_tokens_than_learned_positions_are_refused(folder: Path, bases: dict[str, Path]) -> None:
    data = {"train": str(folder / "train.csv"), "max_length": 5000}
    with pytest.raises(ConfigError, match=r"data.max_length: expected up to \d+, the positions that .* has learned"):
        run(config_of(folder, bases["bert"], data=data))


def test_a_run_that_never_began_does_not_block_the_next(folder: Path, bases: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        run(config_of(folder, bases["llama"], train={"report_to": "nowhere"}))
    run(config_of(folder, bases["llama"], train={"max_steps": 1}))


def test_several_deltas(folder: Path, bases: dict[str, Path]) -> None:
    stacked = [{"method": "lora", "name": "a"}, {"method": "lora", "name": "b", "targets": ["mlp_up"]}]
    result, _ = run(config_of(folder, bases["llama"], delta=None, deltas=stacked, train={"max_steps": 2}))
    base = dt.load_base(bases["llama"])
    for name in ("a", "b"):
        assert dt.load(base.model, result.final / name).name == name


def test_classification(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(
        folder,
        bases["bert"],
        data={"train": str(folder / "train.csv"), "eval_share": 0.25},
        delta={"method": "lora", "targets": ["query", "value", "mlp_up"]},
        train={"epochs": 25},
    )
    result, shown = run(config)
    assert result.metrics["eval_accuracy"] == 1
    assert result.metrics["eval_macro_f1"] == 1
    assert "cold, warm" in shown
    assert load_config(folder / "out" / "config.yaml").data.labels == ("cold", "warm")


def test_a_classifiers_step_is_the_same_in_parts(folder: Path, bases: dict[str, Path]) -> None:
    """Its own loss is the mean over a batch, so a step's is the mean over its batches."""

    def trained(name: str, **train: Any) -> tuple[float, dict[str, torch.Tensor]]:
        settings = {"max_steps": 1, "optimizer": "sgd", "max_grad_norm": 0, "warmup_steps": 0, **train}
        result, _ = run(
            config_of(
                folder,
                bases["bert"],
                data={"train": str(folder / "train.csv"), "limit": 8},
                delta={"method": "lora", "targets": ["query", "value"]},
                train=settings,
                output=str(folder / name),
            )
        )
        return result.metrics["train_loss"], tensors(result.final)

    whole, expected = trained("whole", batch_size=8)
    parts, found = trained("parts", batch_size=2, gradient_accumulation=4)
    assert parts == pytest.approx(whole, rel=0.02)  # dropout draws otherwise
    moved = [name for name in expected if "lora_B" in name]  # from zero, by the gradient
    sizes = [sum(float(each[name].norm()) for name in moved) for each in (found, expected)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)


def test_encoder_decoder(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["t5"], data={"eval": str(folder / "train.jsonl")}, train={"epochs": 2})
    result, _ = run(config)
    base = dt.load_base(bases["t5"])
    dt.load(base.model, result.final)
    data = encode_records(read_records(folder / "train.jsonl"), base.tokenizer, kind="seq2seq")
    found = evaluate(base, data, generate=True)
    assert found.metrics["loss"] == pytest.approx(result.metrics["eval_loss"], rel=1e-5)
    assert len(found.predictions) == 24
    assert found.predictions[0].reference == "blue"


def test_what_is_learned_is_written_again(folder: Path, bases: dict[str, Path]) -> None:
    tiny.write_jsonl(folder / "train.jsonl", [{"prompt": w, "completion": w[::-1]} for w in tiny.WORDS[:3]])
    delta = {"method": "lora", "r": 8, "targets": ["all_linear"], "train_also": ["lm_head"]}
    result, _ = run(config_of(folder, bases["llama"], delta=delta, train={"epochs": 60, "learning_rate": 2e-2}))
    base = dt.load_base(bases["llama"])
    dt.load(base.model, result.final)
    data = encode_records(read_records(folder / "train.jsonl"), base.tokenizer)
    found = evaluate(base, data, generate=True, batch_size=2)
    assert found.metrics["exact_match"] == 1
    assert [(p.prompt, p.prediction) for p in found.predictions] == [
        ("red", "der"),
        ("blue", "eulb"),
        ("green", "neerg"),
    ]


def test_completions_do_not_depend_on_the_batch(folder: Path, bases: dict[str, Path]) -> None:
    base = dt.load_base(bases["llama"])
    prompts = [[int(i) for i in base.tokenizer(text)["input_ids"]] for text in ("red", "red blue gold", "pink grey")]
    together = list(complete(base, prompts, batch_size=3, max_new_tokens=6))
    assert together == list(complete(base, prompts, batch_size=1, max_new_tokens=6))


def test_greedy_is_greedy_whatever_the_model_comes_with(bases: dict[str, Path]) -> None:
    base = dt.load_base(bases["llama"])
    prompts = [[int(i) for i in base.tokenizer("red blue")["input_ids"]]]
    expected = list(complete(base, prompts, max_new_tokens=8))
    own = base.model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.eos_token_id = True, 2.0, 5.0, None
    assert list(complete(base, prompts, max_new_tokens=8)) == expected
    assert base.model.generation_config is own


def test_a_text_without_a_prompt_can_not_be_answered(folder: Path, bases: dict[str, Path]) -> None:
    base = dt.load_base(bases["llama"])
    tiny.write_jsonl(folder / "text.jsonl", [{"text": "red blue"}])
    data = encode_records(read_records(folder / "text.jsonl"), base.tokenizer)
    with pytest.raises(DataError, match="expected a prompt before each answer"):
        evaluate(base, data, generate=True)


def test_confusion_counts() -> None:
    found = Confusion.of([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], ("a", "b", "never"))
    assert found.counts == ((1, 1, 0), (1, 2, 0), (0, 0, 0))
    assert found.accuracy == 3 / 5
    assert found.macro_f1 == pytest.approx((0.5 + 2 / 3) / 2)


def test_the_split_is_the_same_for_the_same_seed(folder: Path) -> None:
    def held_out(seed: int) -> list[int]:
        data = {"train": str(folder / "train.jsonl"), "eval_share": 0.25}
        config = parse_config({"base": "x", "delta": "lora", "data": data, "output": "x", "train": {"seed": seed}})
        records = read_data(config)
        assert not {r.origin for r in records.train} & {r.origin for r in records.eval}
        return [record.origin.number for record in records.eval]

    assert held_out(1) == held_out(1) != held_out(2)
    assert len(held_out(1)) == 6


def test_a_dry_run_counts_the_same_and_writes_nothing(folder: Path, bases: dict[str, Path]) -> None:
    config = config_of(folder, bases["llama"], data={"eval_share": 0.25})
    out = io.StringIO()
    found = dry_run(config, console=Console(file=out, width=200))
    assert not (folder / "out").exists()
    assert found["trainable_parameters"] == 1024
    assert found["base_parameters"] == 36_128
    assert found["steps"] == 5
    assert found["memory_bytes"] > 4 * 36_128
    assert found["file_bytes"] == 4 * 1024
    assert f"takes about {size_text(found['memory_bytes'])} at its peak" in out.getvalue()
    assert (found["train"]["examples"], found["eval"]["examples"]) == (18, 6)
    assert "⟦green</s>⟧" in out.getvalue()


def test_a_dry_run_plans_for_the_memory_budget(folder: Path, bases: dict[str, Path]) -> None:
    def told(**train: Any) -> tuple[int, str]:
        out = io.StringIO()
        found = dry_run(config_of(folder, bases["llama"], train=train), console=Console(file=out, width=200))
        return found["memory_bytes"], out.getvalue()

    free, _ = told()
    least, _ = told(gradient_checkpointing=True)
    assert least < free
    same, text = told(memory_budget=free)
    assert same == free
    assert "memory_budget: 0 of 2 layers checkpointed\n" in text
    some, text = told(memory_budget=free - 1)
    assert least <= some < free
    assert "1 of 2 layers" in text
    most, text = told(memory_budget=1)
    assert most == least
    assert "2 of 2 layers checkpointed, which is not enough" in text
    assert "not counted: what train.precision and train.compile changes" in told(precision="bf16", compile=True)[1]


def test_a_run_that_goes_on_does_not_answer_with_what_it_was_before(folder: Path, bases: dict[str, Path]) -> None:
    result, _ = run(config_of(folder, bases["llama"], train={"max_steps": 2, "save_steps": 1}))
    out = folder / "out"
    assert delta_folders(out) == [result.final]
    (out / "metrics.json").unlink()  # as a run that is resumed does, until it is over
    with pytest.raises(ConfigError, match="expected a finished run, found one with the checkpoints: checkpoint-1"):
        delta_folders(out)


NEED_MORE = {"fusion", "peft"}
"""Methods that can not be attached by their name alone."""


@pytest.mark.parametrize("method", sorted(METHODS.keys() - NEED_MORE))
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_every_method_is_at_hand(method: str, base: str, folder: Path, bases: dict[str, Path]) -> None:
    data = {"train": str(folder / ("train.csv" if base == "bert" else "train.jsonl"))}
    config = config_of(folder, bases[base], delta=None, deltas=[method], data=data)
    try:
        found = dry_run(config, console=Console(quiet=True))
    except SiteError:  # it has nowhere to act in this model, such as BitFit in one without biases
        return
    assert found["trainable_parameters"] > 0


@pytest.mark.parametrize(
    ("train", "fault"),
    [
        ({"extra": {"lerning_rate": 1}}, "did you mean 'learning_rate'"),
        ({"extra": {"output_dir": "x"}}, "train.extra.output_dir"),
        ({"extra": {"eval_strategy": "often"}}, "often"),
        ({"scheduler": "reduce_lr_on_plateau"}, "requires an eval strategy"),
    ],
)
def test_what_the_trainer_refuses_is_a_config_error(
    folder: Path, bases: dict[str, Path], train: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        run(config_of(folder, bases["llama"], train=train))
    assert not (folder / "out").exists()


def test_extra_goes_over_everything(folder: Path, bases: dict[str, Path]) -> None:
    extra = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 5e-3}, "warmup_steps": 0}
    run(config_of(folder, bases["llama"], train={"extra": extra, "logging_steps": 1}))
    rates = [entry["learning_rate"] for entry in logged(folder / "out") if "learning_rate" in entry]
    assert rates[0] == 1e-2
    assert 5e-3 <= rates[-1] < 6e-3


def test_a_missing_plotting_library_is_said_in_one_line(
    folder: Path, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "can_plot", lambda: False)
    _, shown = run(config_of(folder, bases["llama"], train={"max_steps": 1}))
    assert 'no loss.png: matplotlib is not installed; run pip install "deltatune[plot]"' in shown
    assert not (folder / "out" / "loss.png").exists()


def test_nothing_is_printed_without_progress(
    folder: Path, bases: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run_quietly = config_of(folder, bases["llama"], train={"max_steps": 1})
    runs.run(run_quietly, progress=False)
    assert capfd.readouterr() == ("", "")
