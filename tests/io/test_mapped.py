"""A base whose layers stay in their files: the same results, and only the layers at work in memory."""

from __future__ import annotations

import contextlib
import copy
import gc
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from torch import Tensor, nn

import deltatune as dt
from deltatune.errors import ConfigError, DeltaError
from deltatune.io import mapped
from deltatune.io.mapped import is_mapped
from tests.io.test_bases import T5, save
from tests.models.tools import assert_bit_identical

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back under Linux only")

LAYERS = 5
SIZES = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_hidden_layers=LAYERS))
    return save(tmp_path / "llama", model)


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """One whose layers are larger than what the system maps around a page that is read: up to 2 MiB."""
    torch.manual_seed(1)
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 512}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_hidden_layers=LAYERS))
    return save(tmp_path / "big", model)


def held(layer: nn.Module) -> float:
    """The share of a layer's memory that is resident, by the system's account of each page."""
    present = total = 0
    with open("/proc/self/pagemap", "rb") as file:
        for parameter in layer.parameters():
            first, last = parameter.data_ptr() // 4096 + 1, (parameter.data_ptr() + parameter.nbytes) // 4096
            file.seek(8 * first)
            flags = [int.from_bytes(file.read(8), "little") for _ in range(first, last)]
            present, total = present + sum(flag >> 63 for flag in flags), total + len(flags)
    return present / total


def of_files(folder: Path) -> int:
    """How many bytes of this process's memory are pages of the folder's files, by the system's account."""
    size, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            size += 1024 * int(line.split()[1])
    return size


def trained(model: nn.Module, *, checkpointed: bool, reentrant: bool = False) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Logits, loss and gradients of a step of a delta on every linear layer."""
    torch.manual_seed(2)
    delta = dt.attach(model, dt.LoRA(r=4, targets=("all_linear",), init="gaussian"))
    for name, parameter in delta.named_parameters():
        if name.endswith("lora_B"):
            nn.init.normal_(parameter, std=0.1)
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
    output = model.train()(input_ids=IDS, labels=IDS, use_cache=False)
    output.loss.backward()
    return output.logits.detach(), output.loss.detach(), {name: p.grad for name, p in delta.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("checkpointed", "reentrant"), [(False, False), (True, False), (True, True)])
def test_logits_and_gradients_are_those_of_the_base_in_memory(
    tmp_path: Path, dtype: str, checkpointed: bool, reentrant: bool
) -> None:
    config = transformers.LlamaConfig(**SIZES, num_hidden_layers=LAYERS)
    folder = save(tmp_path / "stored", transformers.LlamaForCausalLM(config).to(getattr(torch, dtype)))
    plain, offloaded = dt.load_base(folder).model, dt.load_base(folder, offload=True).model
    assert all(is_mapped(layer.mlp.up_proj.weight) for layer in offloaded.model.layers)
    expected = trained(plain, checkpointed=checkpointed, reentrant=reentrant)
    found = trained(offloaded, checkpointed=checkpointed, reentrant=reentrant)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        assert gradient.any(), name
        assert torch.equal(found[2][name], gradient), name


@pytest.mark.parametrize("checkpointed", [False, True])
def test_only_the_layers_at_work_are_in_memory(big: Path, checkpointed: bool) -> None:
    """Seen from the middle of every layer, forward and backward; without offload every layer stays.

    The system maps pages around those that are read, so a part of the next layer is there too.
    """
    most = {}
    for offload in (False, True):
        model = dt.load_base(big, offload=offload).model
        layers, seen = model.model.layers, []
        for layer in layers:
            see = lambda *_, layers=layers, seen=seen: seen.append(sum(map(held, layers)))  # noqa: E731
            layer.mlp.down_proj.register_forward_hook(see)
            layer.mlp.down_proj.register_full_backward_hook(see)
        trained(model, checkpointed=checkpointed)
        assert len(seen) >= 2 * LAYERS
        most[offload] = max(seen)
    assert most[False] > LAYERS - 0.1
    assert 0.9 < most[True] < 2


def test_the_next_layer_is_read_ahead_in_the_direction_of_the_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dt.load_base(folder, offload=True).model
    numbers = {next(layer.parameters()): i for i, layer in enumerate(model.model.layers)}
    ahead, released = [], []
    monkeypatch.setattr(mapped, "_read_ahead", lambda first, *_: ahead.append(numbers[first]))
    monkeypatch.setattr(mapped, "_release", lambda first, *_: released.append(numbers[first]))
    trained(model, checkpointed=True)
    assert ahead == [2, 3, 4, 2, 1, 0]
    assert released == [0, 1, 2, 3, 4, 3, 2, 1]


def test_what_is_written_into_a_base_is_kept(folder: Path) -> None:
    """By a delta that works in place, and past every record that torch keeps of a write."""
    plain, offloaded = dt.load_base(folder).model, dt.load_base(folder, offload=True).model
    for model in (plain, offloaded):
        model.model.layers[1].mlp.up_proj.weight.data[7, 3] = 5.0
        model.model.layers[2].mlp.up_proj.weight.data.zero_()
    for _ in range(2):
        with torch.no_grad():
            assert torch.equal(offloaded(IDS).logits, plain(IDS).logits)
    assert offloaded.model.layers[1].mlp.up_proj.weight[7, 3] == 5.0
    assert not offloaded.model.layers[2].mlp.up_proj.weight.any()


def test_merge_and_unmerge_are_those_of_the_base_in_memory(folder: Path) -> None:
    plain, offloaded = dt.load_base(folder).model, dt.load_base(folder, offload=True).model
    before = offloaded(IDS).logits
    for model in (plain, offloaded):
        trained(model, checkpointed=False)
        dt.merge(model.eval())
    with torch.no_grad():
        assert torch.equal(offloaded(IDS).logits, plain(IDS).logits)
        assert not torch.equal(offloaded(IDS).logits, before)
    dt.unmerge(offloaded)
    dt.detach(offloaded)
    assert torch.equal(offloaded(IDS).logits, before)
    assert all(is_mapped(layer.mlp.up_proj.weight) for layer in offloaded.model.layers)


def test_a_copy_goes_on_by_itself(folder: Path) -> None:
    model = dt.load_base(folder, offload=True).model
    expected = model(IDS).logits
    twin = copy.deepcopy(model)
    assert not any(is_mapped(layer.mlp.up_proj.weight) for layer in twin.model.layers)
    del model
    gc.collect()
    for _ in range(2):
        assert torch.equal(twin(IDS).logits, expected)


def test_an_encoder_and_a_decoder(tmp_path: Path) -> None:
    sizes = T5 | {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 3}
    folder = save(
        tmp_path / "t5",
        transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=1)),
    )
    plain, offloaded = (dt.load_base(folder, offload=offload).model for offload in (False, True))
    inputs = {"input_ids": IDS % 20, "labels": IDS % 20}
    assert torch.equal(offloaded(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"quant": "nf4"}])
def test_weights_that_are_not_those_of_the_file_are_refused(big: Path, change: dict[str, Any]) -> None:
    if "quant" in change:
        pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=r"found model\.layers\.0\.\S+ converted to \w+ or moved; leave dtype"):
        dt.load_base(big, offload=True, **change)


@pytest.mark.parametrize("quant", ["nf4", "int8"])
def test_a_base_that_is_quantised_leaves_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant: Literal["nf4", "int8"]
) -> None:
    """The same packed weights, and few of the pages that they were made from: those that the last read brought too."""
    pytest.importorskip("bitsandbytes")
    sizes = SIZES | {"hidden_size": 1024, "intermediate_size": 2048}
    dense = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_hidden_layers=1))
    folder = save(tmp_path / "large", dense)
    model = dt.load_base(folder, quant=quant).model
    left = of_files(folder)
    monkeypatch.setattr(mapped, "reading_once", contextlib.nullcontext)
    plain = dt.load_base(folder, quant=quant).model
    whole = of_files(folder) - left
    assert whole > 0.9 * sum(parameter.nbytes for parameter in dense.model.layers.parameters())
    assert left < whole / 3
    assert_bit_identical(model.state_dict(), plain.state_dict())


def test_another_system_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DeltaError, match=r"^offload: expected Linux with /proc/self/pagemap, found darwin without"):
        mapped.offload(nn.Linear(2, 2))


def test_memory_of_the_process_is_no_file() -> None:
    assert not is_mapped(torch.ones(100, 100))
    assert not is_mapped(torch.ones(1))
