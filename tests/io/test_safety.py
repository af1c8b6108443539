"""A file that is no whole delta for this base is refused with the reason, and the model is left as it was."""

from __future__ import annotations

import json
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import deltatune as dt
from deltatune.errors import AttachError, ConfigError, DeltaError, FileFormatError
from deltatune.io.files import CONFIG, TENSORS, describe, restore
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES
from tests.models.tools import fingerprint, stir

FAMILY = FAMILIES["llama"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good delta of rank 2 at four sites."""
    model = FAMILY.model()
    delta = stir(dt.attach(model, LoRA(r=2), name="sql"))
    return dt.save(delta, tmp_path / "sql")


def refused(folder: Path, message: str, error: type[DeltaError] = FileFormatError) -> None:
    """Loading is refused in one line, and nothing of the model has changed."""
    model = FAMILY.model()
    state, base = fingerprint(model), FAMILY.forward(model)
    with pytest.raises(error, match=message) as caught:
        dt.load(model, folder)
    assert "\n" not in str(caught.value)
    assert fingerprint(model) == state
    assert torch.equal(FAMILY.forward(model), base)


def header_of(folder: Path) -> dict[str, Any]:
    with safe_open(folder / TENSORS, framework="pt") as file:
        return json.loads(file.metadata()["deltatune"])  # type: ignore[no-any-return]


def rewrite(folder: Path, tensors: dict[str, Tensor] | None = None, header: Any = None) -> None:
    """Write the file again with other tensors or another header."""
    tensors = load_file(folder / TENSORS) if tensors is None else tensors
    header = header_of(folder) if header is None else header
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt", "deltatune": text})


def test_the_good_one_is_not_refused(folder: Path) -> None:
    rewrite(folder)
    dt.load(FAMILY.model(), folder)


class Bomb:
    """Whoever unpickles this runs what it says."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (_explode, ("unpickled",))


def _explode(what: str) -> None:
    raise AssertionError(what)


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.pt", "delta.pkl", "model.pth"])
def test_a_pickle_is_refused_by_its_name_and_never_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "target_modules": ["q_proj"]}')
    refused(tmp_path, rf"expected {TENSORS}, found {name}, a pickle, which can run code; save it again as safetensors")


def test_a_pickle_under_the_right_name_is_refused_too(folder: Path) -> None:
    (folder / TENSORS).write_bytes(pickle.dumps(Bomb()))
    refused(folder, "expected a safetensors file, found a damaged one")


def test_a_folder_that_is_not_there_or_empty_is_named(tmp_path: Path) -> None:
    refused(tmp_path, f"expected {TENSORS}, found none")
    refused(tmp_path / "nowhere", "nowhere: expected a delta's folder, found nothing there")


@pytest.mark.parametrize("name", ["out/nowhere", "out/no where", "a/b?"])
def test_a_path_that_could_be_a_hub_id_is_refused_in_one_line_as_well(name: str) -> None:
    refused(Path(name), "expected")


def test_missing_extra_and_misshapen_tensors_are_named_all_at_once(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    first, second, *_ = sorted(tensors)
    del tensors[first]
    tensors[second] = tensors[second][:, :1].contiguous()
    tensors["base_model.model.stray"] = torch.zeros(1)
    rewrite(folder, tensors)
    names = [name.removeprefix("base_model.model.") for name in (first, second)]
    refused(folder, rf"{names[0]} is missing; stray is not expected; {names[1]} is \[32, 1\], expected \[32, 2\]")


def test_a_long_list_of_faults_is_cut_short(folder: Path) -> None:
    rewrite(folder, {"base_model.model.stray": torch.zeros(1)})
    refused(folder, "is missing; .* is missing; .* is missing, and 6 more; it was made for another base or method")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.3, 0.9])
def test_a_file_that_was_cut_off_is_refused(folder: Path, keep: float) -> None:
    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    refused(folder, "expected a safetensors file, found a damaged one")


@pytest.mark.parametrize("length", [2**63, 2**40, 2**20, 3])
def test_a_header_with_an_absurd_length_is_refused(folder: Path, length: int) -> None:
    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(struct.pack("<Q", length) + whole[8:])
    refused(folder, "expected a safetensors file, found a damaged one")


def test_a_shape_that_the_file_has_no_bytes_for_is_refused(tmp_path: Path) -> None:
    entry = {"weight": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 16]}}
    header = json.dumps(entry).encode()
    (tmp_path / TENSORS).write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    refused(tmp_path, "expected a safetensors file, found a damaged one")


@pytest.mark.parametrize("ours", [True, False], ids=["header", "peft"])
@pytest.mark.parametrize("rank", [10**6, 10**12])
def test_a_rank_beyond_reason_is_seen_through_before_anything_is_allocated(folder: Path, ours: bool, rank: int) -> None:
    if ours:
        header = header_of(folder)
        header["method"]["r"] = rank
        rewrite(folder, header=header)
    else:
        save_file(load_file(folder / TENSORS), folder / TENSORS)
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | {"r": rank}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, rf"lora_A.weight is \[2, 32\], expected \[{rank}, 32\]")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_a_config_that_only_fills_the_memory_is_not_read(folder: Path) -> None:
    save_file(load_file(folder / TENSORS), folder / TENSORS)
    (folder / CONFIG).write_text(" " * (5 * 2**20) + "{}")
    refused(folder, "expected PEFT's settings beside the tensors, found none of a sane size")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected JSON"), ("{", "expected JSON"), ("[1]", "expected a JSON object, found list")],
)
def test_a_peft_file_with_a_broken_config_is_refused(folder: Path, text: str, message: str) -> None:
    save_file(load_file(folder / TENSORS), folder / TENSORS)
    (folder / CONFIG).write_text(text)
    refused(folder, message)
    (folder / CONFIG).unlink()
    refused(folder, "expected PEFT's settings beside the tensors, found none")


BROKEN_HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda header: "{",
    "a list": lambda header: [header],
    "a number": lambda header: 3,
    "no format": lambda header: {name: value for name, value in header.items() if name != "format"},
    "no method": lambda header: {name: value for name, value in header.items() if name != "method"},
    "a method that is text": lambda header: header | {"method": "lora"},
    "a pattern that is a list": lambda header: header | {"method": {"method": "lora", "rank_pattern": [1]}},
    "a base that is text": lambda header: header | {"base": "llama"},
    "an empty base": lambda header: header | {"base": {}},
    "a sample that is a list": lambda header: header | {"base": header["base"] | {"sample": [1]}},
    "a sample of another kind": lambda header: (
        header | {"base": header["base"] | {"sample": {"model.norm.weight": [1]}}}
    ),
    "an unknown precision": lambda header: (
        header | {"base": header["base"] | {"sample": {"model.norm.weight": {"dtype": "nn", "values": [1]}}}}
    ),
    "values that are text": lambda header: (
        header | {"base": header["base"] | {"sample": {"model.norm.weight": {"dtype": "float64", "values": ["a"]}}}}
    ),
}


@pytest.mark.parametrize("broken", BROKEN_HEADERS.values(), ids=list(BROKEN_HEADERS))
def test_a_damaged_header_is_refused(folder: Path, broken: Callable[[dict[str, Any]], Any]) -> None:
    rewrite(folder, header=broken(header_of(folder)))
    refused(folder, "the header is damaged")


def test_a_format_of_the_future_asks_for_an_upgrade(folder: Path) -> None:
    rewrite(folder, header=header_of(folder) | {"format": 99})
    refused(folder, "expected format 1, found 99; upgrade deltatune")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"method": "lora", "r": -1}, "lora rank of r: expected a whole number from 1, found -1"),
        ({"method": "lora", "r": "8"}, "lora rank of r: expected a whole number from 1, found '8'"),
        ({"method": "lora", "targets": [1]}, "lora.targets: expected names of modules"),
        ({"method": "lora", "targets": ["nowhere"]}, "target 'nowhere' matches no module"),
        ({"method": "lora", "targets": ["q_proj("]}, "is no regular expression"),
        ({"method": "lora", "rank_pattern": {"(": 3}}, "is no regular expression"),
        ({"method": "lora", "layers": {"a": 1}}, "lora.layers: expected numbers"),
        ({"method": "os.system"}, "method: expected one of .*, found 'os.system'"),
    ],
)
def test_a_method_that_is_none_is_refused(folder: Path, method: dict[str, Any], message: str) -> None:
    rewrite(folder, header=header_of(folder) | {"method": method})
    refused(folder, message, ConfigError)


@pytest.mark.parametrize("name", ["../../evil", "a.b", "train", ""])
def test_a_name_that_can_not_be_one_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, header=header_of(folder) | {"name": name})
    model = FAMILY.model()
    with pytest.raises(AttachError, match="name"):
        dt.load(model, folder)
    assert dt.load(model, folder, name="good").name == "good"


def test_a_file_is_described_without_a_model_or_its_tensors(folder: Path) -> None:
    about = describe(folder)
    assert about.method == LoRA(r=2)
    assert len(about.shapes()) == 8


def test_a_delta_is_not_restored_from_a_file_that_does_not_fit(folder: Path) -> None:
    model = FAMILY.model()
    delta = stir(dt.attach(model, LoRA(r=2)))
    expected = FAMILY.forward(model)
    tensors = load_file(folder / TENSORS)
    tensors.popitem()
    rewrite(folder, tensors)
    with pytest.raises(FileFormatError, match="is missing"):
        restore(delta, folder)
    assert torch.equal(FAMILY.forward(model), expected)


def test_a_delta_is_not_restored_from_one_that_computes_something_else(folder: Path) -> None:
    # The same shapes, but another scale: the tensors would mean another function.
    model = FAMILY.model()
    delta = dt.attach(model, LoRA(r=2, alpha=99))
    with pytest.raises(FileFormatError, match=r"expected a delta of .*'alpha': 99.*, found one of "):
        restore(delta, folder)
