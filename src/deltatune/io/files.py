"""Save and load a delta: a folder in Hugging Face PEFT's layout.

===============================  ==========================================================================
``adapter_model.safetensors``    the tensors; in its header, what deltatune needs: method, base, version
``adapter_config.json``          the same method for Hugging Face PEFT and the servers that read its format
``README.md``                    a model card
===============================  ==========================================================================

The header travels with the tensors in one file that is replaced in one step, so a delta of ours is never read with
the settings of another. A file without that header is PEFT's, and ``adapter_config.json`` describes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import deltatune
from deltatune import methods
from deltatune.attachment.bank import bank_of, bare, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import add, check_name
from deltatune.attachment.part import Part, Replacement
from deltatune.attachment.shards import is_sharded
from deltatune.errors import AttachError, ConfigError, DeltaError, FileFormatError, first_line
from deltatune.io.atomic import atomic_files
from deltatune.io.card import write_card
from deltatune.io.identity import check_base, identify
from deltatune.io.peft_layout import PREFIX, is_redundant, short_names
from deltatune.methods.base import Method

__all__ = ["CONFIG", "TENSORS", "Description", "describe", "load", "restore", "save", "saved_tensors"]

TENSORS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
FORMAT = 1
LARGEST_CONFIG = 4 * 2**20
"""No adapter_config.json is this long; one that is would only fill the memory."""


def save(
    delta: Delta,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``delta`` to ``folder`` and return it.

    If FSDP2 shards the base, every process has to call this: all give their part of the base's identity, the first one
    writes.

    Args:
        delta: the delta, attached to a model.
        folder: made if absent; a delta that is there is replaced, other files stay.
        dtype: the precision of the tensors in the file. Default: as they are trained.
        card: facts for the model card, such as the training data and metrics.

    Raises:
        FileFormatError: the delta holds NaN or infinity.
        AttachError: the delta was detached, or deltas are merged: trained biases and the base's identity are read off
            the base's own weights.
    """
    model, folder = delta.model, Path(folder)
    if bank_of(model).merged is not None:
        raise AttachError("deltas are merged into the weights; call dt.unmerge(model) before saving one")
    with bare(model):
        tensors = saved_tensors(delta, partial(_writable, dtype=dtype))
        base = identify(model, without=_replaced(delta))
    if is_sharded(model) and torch.distributed.get_rank():
        return folder
    about = {
        "format": FORMAT,
        "version": deltatune.__version__,
        "name": delta.name,
        "method": delta.method.to_config(),
        "base": base,
    }
    with atomic_files(folder) as scratch:
        save_file(tensors, scratch / TENSORS, metadata={"format": "pt", "deltatune": json.dumps(about, sort_keys=True)})
        _sort_metadata(scratch / TENSORS)
        (scratch / CONFIG).write_text(json.dumps(_peft_config(model, delta, about), indent=2, sort_keys=True) + "\n")
        write_card(scratch / "README.md", model, delta, about, card or {})
    return folder


def saved_tensors(delta: Delta, ready: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor) -> dict[str, Tensor]:
    """The tensors of a delta's file. On the meta device they have their shapes.

    Args:
        delta: attached to a model, which is :func:`deltatune.attachment.bank.bare`.
        ready: what is to become of each, given its name. Default: what it is.
    """
    model = delta.model
    tensors = {
        f"{site}.{name}": ready(f"{site}.{name}", tensor)
        for site, part in delta.items()
        for name, tensor in part.export(model.get_submodule(site)).items()
    }
    return {key: tensor.contiguous() for key, tensor in delta.method.pack(model, delta, tensors).items()}


def _sort_metadata(file: Path) -> None:
    """Order what safetensors leaves to chance, so that the same delta is the same file, byte for byte."""
    with file.open("r+b") as content:
        size = int.from_bytes(content.read(8), "little")
        header = json.loads(content.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        assert len(ordered) == size  # the same text in another order
        content.seek(8)
        content.write(ordered)


def load(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str | None = None,
    trainable: bool = False,
    check_base: bool = True,
) -> Delta:
    """Attach the delta that ``folder`` holds. The model is untouched unless all of it fits.

    Args:
        model: the base.
        folder: a delta written by :func:`save` or by Hugging Face PEFT; a local folder or a hub id.
        name: how to call it. Default: as it was called when saved.
        trainable: whether to train it on. Default: false, it only acts.
        check_base: refuse a model that is not the base the delta was made on. Default: true.

    Raises:
        FileFormatError: the file is no delta, is damaged, or holds missing, extra or misshapen tensors.
        BaseMismatchError: the model is another base.
        AttachError: the name is taken.
    """
    model = unwrap(model)
    about = describe(folder)
    name = name or about.name
    check_name(model, name)
    with bare(model):
        if check_base and about.base is not None:
            _check_base(model, about)
        delta = Delta(name, about.method, _shape_only(model, about))
        tensors = _read(model, delta, about)
        if about.method.is_whole_in_file:
            _materialise(model, delta)
        else:
            delta = Delta(name, about.method, about.method.bind(model))
        _restore(model, delta, tensors)
    return add(model, delta if trainable else delta.freeze())


def restore(delta: Delta, folder: str | Path) -> None:
    """Put the tensors that ``folder`` holds into a delta that is attached, as a resumed training run does.

    Raises:
        FileFormatError: as for :func:`load`, or the file is of a delta with other settings.
    """
    about = describe(folder)
    expected, found = delta.method.to_config(), about.method.to_config()
    if about.base is not None and found != expected:
        raise FileFormatError(f"{about.file}: expected a delta of {expected}, found one of {found}; attach that")
    with bare(delta.model):
        _restore(delta.model, delta, _read(delta.model, delta, about))


class Description:
    """What a folder says of the delta in it, read without its tensors and without a model."""

    def __init__(
        self, folder: Path, method: Method, name: str, base: dict[str, Any] | None, raw: dict[str, Any]
    ) -> None:
        self.folder, self.method, self.name, self.base, self.raw = folder, method, name, base, raw

    @property
    def file(self) -> Path:
        return self.folder / TENSORS

    def shapes(self) -> dict[str, torch.Size]:
        """The tensors in the file and their shapes."""
        with _open(self.file) as file:
            keys: list[str] = file.keys()
            return {key: torch.Size(file.get_slice(key).get_shape()) for key in keys}


def describe(folder: str | Path) -> Description:
    """Read what a folder says of its delta.

    Raises:
        FileFormatError: there is no delta in it, or it can not be read safely.
        ConfigError: its method has no counterpart here.
    """
    path = _local(folder)
    _refuse_pickle(path)
    with _open(path / TENSORS) as file:
        header = (file.metadata() or {}).get("deltatune")
    if header is None:
        config = _read_config(path / CONFIG)
        base = config.get("base_model_name_or_path")
        return Description(path, methods.from_peft_config(config), "default", None, {"base_model": base, **config})
    try:
        about = json.loads(header)
        found, method = about["format"], methods.from_config(about["method"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _damaged(path / TENSORS, error) from None
    if found != FORMAT:
        raise FileFormatError(f"{path / TENSORS}: expected format {FORMAT}, found {found!r}; upgrade deltatune")
    return Description(path, method, str(about.get("name", "default")), about.get("base"), about)


def _damaged(file: Path, error: Exception) -> FileFormatError:
    return FileFormatError(f"{file}: the header is damaged ({error}); take the file from its source again")


def _peft_config(model: nn.Module, delta: Delta, about: dict[str, Any]) -> dict[str, Any]:
    """``adapter_config.json``; for a method that PEFT lacks, ours alone, which PEFT refuses by its type."""
    try:
        config = delta.method.peft_config(model, delta)
    except ConfigError:
        return {"peft_type": f"DELTATUNE_{delta.method.key.upper()}", "deltatune": about["method"]}
    if "target_modules" in config:
        config["target_modules"] = short_names(model, config["target_modules"])
    return {
        "base_model_name_or_path": about["base"]["name_or_path"],
        "inference_mode": True,
        "modules_to_save": sorted(_replaced(delta)) or None,
        "task_type": None,
        **config,
    }


def _writable(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    written = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
    if not bool(torch.isfinite(written).all()):
        reason = "the run diverged, save an earlier one"
        if bool(torch.isfinite(tensor).all()):
            reason = f"it holds numbers beyond {dtype}, choose another precision"
        raise FileFormatError(f"{key}: expected finite numbers, found NaN or infinity; {reason}")
    return written.contiguous().cpu()


def _replaced(delta: Delta) -> set[str]:
    return {site for site, part in delta.items() if isinstance(part, Replacement)}


def _check_base(model: nn.Module, about: Description) -> None:
    try:
        check_base(model, about.base or {})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DeltaError):
            raise
        raise _damaged(about.file, error) from None


def _shape_only(model: nn.Module, about: Description) -> dict[str, Part]:
    """The parts without memory: a file that asks for absurd sizes is seen through before anything is allocated."""
    return about.method.bind(model, torch.device("meta"))


def _expected(delta: Delta) -> dict[str, torch.Size]:
    return {f"{site}.{name}": shape for site, part in delta.items() for name, shape in part.shapes().items()}


def _read(model: nn.Module, delta: Delta, about: Description) -> dict[str, Tensor]:
    """The tensors of the file, which must be exactly those of the delta's parts, seen before any of them is read."""
    outlines = {key: torch.empty(shape, device="meta") for key, shape in about.shapes().items()}
    unpacked = delta.method.unpack(model, delta, outlines)
    for site, part in delta.items():
        own = f"{site}."
        part.expect({key.removeprefix(own): o.shape for key, o in unpacked.items() if key.startswith(own)})
    expected = _expected(delta)
    found = {key: outline.shape for key, outline in unpacked.items() if not is_redundant(key, expected)}
    for key in _restated(model, about.file, found.keys() - expected.keys(), expected):
        del found[key]
    faults = [f"{key} is missing" for key in expected if key not in found]
    faults += [f"{key} is not expected" for key in found if key not in expected]
    faults += [
        f"{key} is {list(found[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if found.get(key, shape) != shape
    ]
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise FileFormatError(f"{about.file}: {'; '.join(faults[:3])}{more}; it was made for another base or method")
    with _open(about.file) as file:
        keys: list[str] = file.keys()
        return delta.method.unpack(model, delta, {key: file.get_tensor(key) for key in keys})


def _restated(model: nn.Module, file: Path, extra: Set[str], expected: Collection[str]) -> list[str]:
    """Those of the keys ``extra`` under which the file repeats what is known.

    PEFT writes an adapted embedding's own weight, and a tied parameter under each of its names.
    """
    if not extra:
        return []
    parameters = {name: p for name, p in model.named_parameters(remove_duplicate=False) if not p.is_meta}
    plain = {key: key.replace(".base_layer.", ".") for key in (*extra, *expected)}
    tied = {key: parameters.get(plain[key]) for key in expected}
    restated = []
    with _open(file) as tensors:
        keys: list[str] = tensors.keys()
        there = {key.removeprefix(PREFIX): key for key in keys}
        for key in extra & there.keys():
            own, tensor = parameters.get(plain[key]), tensors.get_tensor(there[key])
            others = [other for other, parameter in tied.items() if parameter is own and other in there]
            known = [] if own is None else [own, *(tensors.get_tensor(there[other]) for other in others)]
            if any(_is_rounded(tensor, each.detach().cpu()) for each in known):
                restated.append(key)
    return restated


def _is_rounded(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for the precision they are kept in."""
    if one.shape != other.shape or not (one.is_floating_point() and other.is_floating_point()):
        return False
    step = max(torch.finfo(each.dtype).eps for each in (one, other))
    return torch.allclose(one.double(), other.double(), rtol=2 * step, atol=1e-7)


def _materialise(model: nn.Module, delta: Delta) -> None:
    for site, part in delta.items():
        device = next(iter(model.get_submodule(site).parameters())).device
        part.to_empty(device=device)


def _restore(model: nn.Module, delta: Delta, tensors: dict[str, Tensor]) -> None:
    for site, part in delta.items():
        names = part.shapes()
        part.restore(model.get_submodule(site), {name: tensors[f"{site}.{name}"] for name in names})


def _local(folder: str | Path) -> Path:
    path = Path(folder)
    if path.is_dir() or path.is_absolute() or str(folder).count("/") != 1 or str(folder).startswith("."):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(str(folder), allow_patterns=[TENSORS, CONFIG]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # not being found is one of these
        reason = first_line(error)
        raise FileFormatError(
            f"{folder}: expected a folder or a hub id, found neither ({reason}); check the path"
        ) from None


def _refuse_pickle(path: Path) -> None:
    if not path.exists():
        raise FileFormatError(f"{path}: expected a delta's folder, found nothing there; check the path")
    if not (path / TENSORS).is_file():
        pickles = [entry.name for suffix in ("*.bin", "*.pt", "*.pth", "*.pkl") for entry in path.glob(suffix)]
        found = f"found {pickles[0]}, a pickle, which can run code" if pickles else "found none"
        raise FileFormatError(f"{path}: expected {TENSORS}, {found}; save it again as safetensors")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise FileFormatError(
            f"{path}: expected a safetensors file, found a damaged one ({error}); fetch it again"
        ) from None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
        raise FileFormatError(
            f"{path}: expected PEFT's settings beside the tensors, found none of a sane size; add the file"
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise FileFormatError(f"{path}: expected JSON, found {error}; fetch the file again") from None
    if not isinstance(config, dict):
        raise FileFormatError(f"{path}: expected a JSON object, found {type(config).__name__}; fetch the file again")
    return config
