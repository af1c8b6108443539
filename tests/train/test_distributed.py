"""Two processes train what one does."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from accelerate import PartialState
from accelerate.commands import launch
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from transformers import TrainingArguments

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.methods.base import Method
from deltatune.train.config_file import load_config
from deltatune.train.distributed import keep_whole
from deltatune.train.run import run
from tests.cli import tiny
from tests.models.families import FAMILIES, VOCABULARY
from tests.packing.texts import examples
from tests.processes import alone, shard_on_cpu, together

TEXTS = [text for seed in range(4) for text in examples(VOCABULARY, seed=seed)]
"""28 texts of 2 to 30 tokens: batches of 7 have very different numbers of targets."""

EXAMPLES = Path(__file__).parents[2] / "examples" / "accelerate"
SITES = ("query", "mlp_down")
METHODS: dict[str, Callable[[], Method]] = {
    "lora": lambda: dt.LoRA(r=2),
    "adalora": lambda: dt.AdaLoRA(init_r=4, target_r=2, tinit=1, tfinal=1, deltaT=1, targets=SITES),
    "relora": lambda: dt.ReLoRA(r=2, restart_every=2, restart_warmup=1, prune="random", targets=SITES),
    "child": lambda: dt.ChildTuning(mode="F"),
    "dora": lambda: dt.DoRA(r=2, targets=SITES),
    "norm": lambda: dt.Norm(),
    "last": lambda: dt.LoRA(r=2, layers="last:1"),
    "dropout": lambda: dt.ReLoRA(r=2, restart_every=2, restart_warmup=1, dropout=0.3, targets=SITES),
}
"""Nothing but tensors; scores of all sites together; random numbers at a restart; at each step; norms of the base's
weights; files that hold the base's own; a trunk below; random numbers in each forward."""

SHARDED: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"],
        "cpu_ram_efficient_loading": False,
    },
}
STEPS = 4


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    folder: Path
    losses: list[float]
    """Of each step."""
    tensors: dict[str, Any]
    """Of the delta."""


def train(
    folder: Path,
    method: str = "lora",
    *,
    sharded: bool = False,
    accumulation: int = 2,
    packing: bool | None = None,
    resume: Path | None = None,
    texts: list[dict[str, Any]] = TEXTS,
    **savings: Any,
) -> Outcome:
    """A run of a step an epoch, with its result in ``final``."""
    if sharded:
        shard_on_cpu()
    torch.manual_seed(0)
    model = FAMILIES["llama"].model().double()
    delta = dt.attach(model, METHODS[method]())
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=7,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=STEPS,
        learning_rate=1e-2,
        logging_steps=1,
        save_steps=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_find_unused_parameters=False,
        **(SHARDED if sharded else {}),
    )
    trainer = dt.Trainer(model, args, train_dataset=texts, packing=packing, **savings)
    torch.rand(args.process_index)  # lets the random streams of the processes part
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    trainer.save_model(str(folder / "final"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    state = {name: tensor.detach().numpy() for name, tensor in delta.state_dict().items()}  # tensors do not fit a pipe
    return Outcome(folder, losses, state)


def _train(args: tuple[Any, ...], settings: dict[str, Any]) -> Outcome:
    return train(*args, **settings)


def one(*args: Any, **settings: Any) -> Outcome:
    """The run in one process, which takes all the batches of a step by itself."""
    outcome: Outcome = alone(_train, args, {**settings, "accumulation": 4})
    return outcome


def two(*args: Any, **settings: Any) -> Outcome:
    """The same run in two processes, which end with the same delta."""
    main, other = together(_train, args, settings)
    for name, tensor in main.tensors.items():
        assert (tensor == other.tensors[name]).all(), name
    return main  # type: ignore[no-any-return]


class Runs:
    """Runs that several tests look at, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[tuple[Any, ...], Outcome] = {}

    def __call__(self, method: str, kind: str = "one", packing: bool | None = None) -> Outcome:
        key = (method, kind, packing)
        if key not in self.made:
            folder = self.folder / "-".join(map(str, key))
            self.made[key] = KINDS[kind](folder, method, packing=packing)
        return self.made[key]


KINDS: dict[str, Callable[..., Outcome]] = {"one": one, "ddp": two, "fsdp": functools.partial(two, sharded=True)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def assert_same(found: Outcome, expected: Outcome) -> None:
    """Equal but for the order in which sums are taken."""
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        np.testing.assert_allclose(found.tensors[name], tensor, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("packing", [None, False], ids=["packed", "padded"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_lora(kind: str, packing: bool | None, runs: Runs) -> None:
    expected = runs("lora", packing=packing)
    assert len(expected.losses) == STEPS
    assert expected.losses[-1] < expected.losses[0]
    assert_same(runs("lora", kind, packing), expected)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("adalora", "ddp"),
        ("adalora", "fsdp"),
        ("relora", "ddp"),
        ("relora", "fsdp"),
        ("child", "ddp"),
        ("norm", "fsdp"),
    ],
)
def test_methods_that_draw_or_remember(method: str, kind: str, runs: Runs) -> None:
    assert_same(runs(method, kind), runs(method))


def test_norms_of_a_base_that_is_spread(runs: Runs) -> None:
    """Adam turns the rounding of sums in another order into more where gradients vanish; so beside two processes."""
    assert_same(runs("dora", "fsdp"), runs("dora", "ddp"))


def test_weights_that_only_one_process_meets(tmp_path: Path) -> None:
    weighted = {**TEXTS[0], "weights": [3.0] * len(TEXTS[0]["input_ids"])}
    texts = [*TEXTS[1:], weighted]
    assert_same(two(tmp_path / "two", texts=texts), one(tmp_path / "one", texts=texts))


def test_a_budget_and_a_trunk_that_both_processes_keep(tmp_path: Path) -> None:
    found = two(tmp_path / "two", "last", cache_trunk=True, memory_budget="1GiB")
    assert_same(found, one(tmp_path / "one", "last"))
    assert len(list((tmp_path / "two" / "trunk").glob("*.index"))) == 2


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, runs: Runs, tmp_path: Path) -> None:
    whole = runs("dropout", kind)
    resumed = KINDS[kind](tmp_path, "dropout", resume=whole.folder / "checkpoint-2")
    assert resumed.losses == whole.losses
    for name, tensor in whole.tensors.items():
        assert (resumed.tensors[name] == tensor).all(), name


@pytest.mark.parametrize(("method", "kind"), [("child", "ddp"), ("relora", "fsdp")])
def test_one_process_goes_on_where_two_stopped(method: str, kind: str, runs: Runs, tmp_path: Path) -> None:
    resumed = one(tmp_path, method, resume=runs(method, kind).folder / "checkpoint-2")
    assert_same(resumed, runs(method))


def test_two_processes_go_on_where_one_stopped(runs: Runs, tmp_path: Path) -> None:
    assert_same(two(tmp_path, "child", resume=runs("child").folder / "checkpoint-2"), runs("child"))


@pytest.mark.parametrize("method", ["lora", "norm"])
def test_what_shards_save_is_whole(method: str, runs: Runs) -> None:
    sharded, plain = (runs(method, kind).folder / "final" for kind in ("fsdp", "one"))
    found, expected = (load_file(folder / "adapter_model.safetensors") for folder in (sharded, plain))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)
    answers = []
    for folder in (sharded, plain):
        model = FAMILIES["llama"].model().double()
        dt.load(model, folder)  # which checks the base's identity
        answers.append(FAMILIES["llama"].forward(model))
    torch.testing.assert_close(*answers)


@pytest.mark.parametrize(
    ("method", "changes", "fault"),
    [
        ("lora", {"fsdp_version": 1}, "fsdp_version: expected 2, found 1, .*; set fsdp_version: 2"),
        (
            "lora",
            {"cpu_ram_efficient_loading": True},
            "fsdp_cpu_ram_efficient_loading: expected false, found true, .*; set it to false",
        ),
        ("child", {}, "delta 'default': expected a method beside .*, found child, .*; train it without FSDP"),
    ],
)
def test_what_can_not_be_sharded_is_refused(method: str, changes: dict[str, Any], fault: str) -> None:
    model = FAMILIES["llama"].model()
    dt.attach(model, METHODS[method]())
    plugin = SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=False, ignored_modules=None)
    vars(plugin).update(changes)
    with pytest.raises(ConfigError, match=fault):
        keep_whole(model, plugin)
    assert plugin.ignored_modules is None


def test_deepspeed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = transformers.Trainer.create_accelerator_and_postprocess

    def create(self: Any) -> None:
        own(self)
        self.is_deepspeed_enabled = True

    monkeypatch.setattr(transformers.Trainer, "create_accelerator_and_postprocess", create)
    with pytest.raises(ConfigError, match=r"deepspeed: expected DDP or FSDP2, found DeepSpeed, .*; use .*ddp.yaml"):
        train(tmp_path)


# The examples of Accelerate's settings.


def launched(example: str) -> dict[str, str]:
    """The environment that ``accelerate launch`` makes of an example."""
    command = ["--config_file", str(EXAMPLES / f"{example}.yaml"), "-m", "deltatune"]
    arguments, *_ = launch._validate_launch_command(launch.launch_command_parser().parse_args(command))
    assert arguments.num_processes == 2
    return dict(prepare_multi_gpu_env(arguments))


def _as_launched(environment: dict[str, str], folder: Path) -> tuple[str, list[float]]:
    os.environ.update({name: value for name, value in environment.items() if name.startswith(("ACCELERATE_", "FSDP_"))})
    shard_on_cpu()
    losses = train(folder).losses
    return str(PartialState().distributed_type), losses


@pytest.mark.parametrize(("example", "kind"), [("ddp", "MULTI_CPU"), ("fsdp2", "FSDP")])
def test_examples_of_settings_run(example: str, kind: str, runs: Runs, tmp_path: Path) -> None:
    for found in together(_as_launched, launched(example), tmp_path):
        assert found == (f"DistributedType.{kind}", pytest.approx(runs("lora").losses, rel=1e-6))


def test_every_example_of_settings_is_tested() -> None:
    assert {file.stem for file in EXAMPLES.iterdir()} == {"ddp", "fsdp2"}


def _run(config: Path, changes: list[str]) -> bool:
    run(load_config(config, changes), progress=False)
    return True


@pytest.mark.slow
def test_the_command_line_trains_the_same_in_two_processes(tmp_path: Path) -> None:
    base = tiny.save_llama(tmp_path / "base")
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.pairs(24))
    settings: dict[str, Any] = {"data": {"eval": str(tmp_path / "train.jsonl")}, "train": {"epochs": 2}}
    config = tiny.write_config(tmp_path, base, **settings)
    alone(_run, config, ["base.device=cpu", f"output={tmp_path / 'one'}", "train.gradient_accumulation=2"])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES / "ddp.yaml")]
    command += [
        "-m",
        "deltatune",
        "train",
        str(config),
        "--set",
        "base.device=cpu",
        "--set",
        f"output={tmp_path / 'two'}",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: ") == 1
    found, expected = (load_file(tmp_path / name / "final" / "adapter_model.safetensors") for name in ("two", "one"))
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    found, expected = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    for name in ("steps", "epochs", "tokens"):
        assert found[name] == expected[name]
    for name in ("train_loss", "last_loss", "eval_loss", "eval_token_accuracy"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    assert (tmp_path / "two" / "checkpoint-6" / "rng_state_1.pth").exists()  # there were two
