"""Compiled layers train what they train as they are, and are compiled once for batches of any length and layout."""

from __future__ import annotations

import copy
import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import TrainingArguments

import deltatune as dt
from deltatune.errors import ConfigError
from deltatune.packing import opaque
from deltatune.packing.packed import Packed, pack
from deltatune.packing.path import PackedModel
from deltatune.train.collate import Collator
from deltatune.train.compiled import compiled
from deltatune.train.config_file import load_config
from deltatune.train.run import run
from tests.cli import tiny
from tests.models.families import DECODER, FAMILIES, VOCABULARY
from tests.models.methods import ROWS
from tests.models.tools import attach, fingerprint, stir
from tests.packing.texts import examples

TEXTS = [text for seed in range(4) for text in examples(VOCABULARY, seed=seed)]
STACK = ("lora", "prefix", "pfeiffer", "bitfit")


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def batches() -> list[Packed]:
    """Of other lengths and layouts each, with and without shared stretches."""
    return [pack(examples(VOCABULARY, seed=seed, shared=9 + seed)[: 7 - seed], least=4) for seed in range(4)]


def model_of(family: str, *methods: str) -> Any:
    model = FAMILIES[family].model()
    for number, name in enumerate(methods):
        stir(attach(model, ROWS[name], FAMILIES[family], name=name), number)
    return model.train()


def steps(model: nn.Module, each: list[Packed]) -> list[list[Tensor]]:
    """The loss and all gradients of each batch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = [model(packed=batch).loss for batch in each]  # forward passes first, so that one can not use another's
    return [[loss.detach(), *torch.autograd.grad(loss, trained)] for loss in losses]


def assert_close(found: list[list[Tensor]], expected: list[list[Tensor]], near: float = 1e-5) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a - b).abs().max() <= near * b.abs().max()


@pytest.mark.parametrize(
    ("family", "methods", "backend"),
    [
        ("llama", ("lora",), "aot_eager"),
        ("llama", STACK, "eager"),
        ("qwen2", ("dora",), "eager"),
        ("gpt2", ("lora", "ia3"), "eager"),
        pytest.param("gpt2", STACK, "aot_eager", marks=pytest.mark.slow),
        pytest.param("qwen2", STACK, "inductor", marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients_are_those_of_the_model_as_it_is(
    family: str, methods: tuple[str, ...], backend: str
) -> None:
    model, each = model_of(family, *methods), batches()
    counters.clear()
    with PackedModel(model).taking_packed():
        expected = steps(model, each)
        with compiled(model, backend=backend) as compilation:
            assert_close(steps(model, each), expected)
    assert (compilation.graphs, compilation.recompiled) == (1, 0)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert compilation.seconds > 0
    assert str(compilation).endswith(" s: 1 graph")


def test_a_prompt_runs_the_layers_by_itself_and_is_one_graph_more() -> None:
    model, each = model_of("llama", "prompt"), batches()
    with PackedModel(model).taking_packed():
        expected = steps(model, each)
        with compiled(model, backend="eager") as compilation:
            assert_close(steps(model, each), expected)
    assert (compilation.graphs, compilation.recompiled) == (2, 0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_sliding_window(implementation: str) -> None:
    model: Any = transformers.MistralForCausalLM(transformers.MistralConfig(**DECODER, sliding_window=4)).train()
    model.set_attn_implementation(implementation)
    stir(dt.attach(model, dt.LoRA(r=2)))
    with PackedModel(model).taking_packed():
        expected = steps(model, batches())
        with compiled(model, backend="eager") as compilation:
            assert_close(steps(model, batches()), expected)
    assert compilation.recompiled == 0


def test_dropout_in_attention_breaks_the_graph_and_drops() -> None:
    config = transformers.LlamaConfig(**{**DECODER, "num_hidden_layers": 1}, attention_dropout=0.5)
    model: Any = transformers.LlamaForCausalLM(config).train()
    stir(dt.attach(model, dt.LoRA(r=2)))
    batch = batches()[0]
    with PackedModel(model).taking_packed(), compiled(model, backend="eager") as compilation:
        torch.manual_seed(0)
        found = steps(model, [batch, batch])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.forward.packed_model.stack.forward = model.forward.packed_model.stack.forward.own
            expected = steps(model, [batch, batch])
    assert_close(found, expected)
    assert not torch.equal(found[0][0], found[1][0])
    assert compilation.graphs > 1


def test_under_autocast() -> None:
    model, each = model_of("llama", "lora", "prefix"), batches()
    with PackedModel(model).taking_packed(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = steps(model, each)
        with compiled(model, backend="eager") as compilation:
            assert_close(steps(model, each), expected, near=5e-2)
    assert (compilation.graphs, compilation.recompiled) == (1, 0)


def test_a_batch_may_be_gone_before_its_backward_pass_and_leaves_nothing() -> None:
    model = model_of("llama", "lora")
    gc.collect()
    before = len(opaque._LIVE)
    with PackedModel(model).taking_packed(), compiled(model, backend="eager"):
        loss = model(packed=batches()[0]).loss
        gc.collect()
        loss.backward()
        assert len(opaque._LIVE) == before + 1
        del loss
        gc.collect()
    assert len(opaque._LIVE) == before


def test_evaluation_and_copies_run_as_they_are() -> None:
    model = model_of("llama", "lora")
    with PackedModel(model).taking_packed(), compiled(model, backend="eager") as compilation:
        batch = batches()[0]
        copied = copy.deepcopy(model)
        stir(dt.deltas(copied)["lora"], seed=5)
        own = model.eval()(packed=batch).loss
        with torch.no_grad():
            assert torch.equal(model.train()(packed=batch).loss, own)
        assert not torch.equal(copied(packed=batch).loss, own)
    assert compilation.graphs == 0


def test_the_model_is_as_it_was_afterwards() -> None:
    model = model_of("llama", "lora")
    before = fingerprint(model)
    with PackedModel(model).taking_packed(), compiled(model, backend="eager"):
        steps(model, batches()[:1])
    assert fingerprint(model) == before


def trained(folder: Path, family: str = "llama", method: dt.Method | None = None, **settings: Any) -> Any:
    """A trainer after some steps of plain gradient descent."""
    torch.manual_seed(0)
    model = FAMILIES[family].model()
    stir(dt.attach(model, method or dt.LoRA(r=2)))
    ours = {name: settings.pop(name) for name in ("memory_budget", "cache_trunk") if name in settings}
    args = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 5,
        "max_steps": 4,
        "learning_rate": 0.01,
        "optim": "sgd",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    texts = TEXTS
    if family == "t5":
        texts = [{"input_ids": text["input_ids"], "labels": (text["input_ids"] * 3)[:5]} for text in TEXTS]
    arguments = TrainingArguments(**{**args, **settings})
    trainer = dt.Trainer(model, arguments, train_dataset=texts, data_collator=Collator(0), **ours)
    trainer.train()
    return trainer


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


COMPILED: dict[str, Any] = {"torch_compile": True, "torch_compile_backend": "eager"}


@pytest.mark.parametrize(("family", "graphs"), [("llama", 1), ("t5", 2)])
def test_the_trainer_compiles_the_layers_alone(family: str, graphs: int, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", family)
    trainer = trained(tmp_path / "compiled", family, **COMPILED)
    assert plain.compilation is None
    assert (trainer.compilation.graphs, trainer.compilation.recompiled) == (graphs, 0)
    assert trainer.model_wrapped is trainer.model
    assert not trainer.savings.lean
    assert "layers compiled at the first step" in str(trainer.savings)
    assert losses(trainer) == pytest.approx(losses(plain), rel=1e-5)


def test_a_run_tells_what_compiling_took(tmp_path: Path) -> None:
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.pairs(24))
    train = {"compile": True, "max_steps": 3, "extra": {"torch_compile_backend": "eager"}}
    out = io.StringIO()
    config = load_config(tiny.write_config(tmp_path, tiny.save_llama(tmp_path / "base"), train=train))
    run(config, console=Console(file=out, width=200))
    told = [line for line in out.getvalue().splitlines() if "compiled in" in line]
    assert [line.partition(" s: ")[2] for line in told] == ["1 graph"]


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"activation_checkpointing": True}, "gradient checkpointing too"),
        ({"memory_budget": "1GiB"}, "memory_budget too"),
        ({"cache_trunk": True}, "cache_trunk too"),
        ({"method": dt.ChildTuning()}, "'default', which trains weights of the base"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_not_be_compiled_is_refused(settings: dict[str, Any], found: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"torch_compile: expected it alone, found {found}"):
        trained(tmp_path, **settings, **COMPILED)
