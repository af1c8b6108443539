"""The difference of two checkpoints as a LoRA: full fine-tuning, of whatever program, made small.

Each linear layer's difference is cut to a rank by its singular value decomposition, which is the best that rank allows.
Neither model is loaded: a pair of tensors is read at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.layers import stored
from deltatune.attachment.lifecycle import add, check_name
from deltatune.attachment.merge import _names_by_parameter
from deltatune.attachment.sites import find_sites
from deltatune.composition.building import build
from deltatune.composition.compose import Composed, Recipe, Rest
from deltatune.composition.source import Source
from deltatune.composition.ways import Dense
from deltatune.errors import ConfigError, FileFormatError
from deltatune.io.bases import TASKS, check_choice, locate, read_config, task_of
from deltatune.io.files import _open, save
from deltatune.methods.base import check, is_int
from deltatune.methods.shift import Shift

__all__ = ["extract"]


def extract(
    base: str | Path,
    tuned: str | Path,
    out: str | Path,
    *,
    rank: int,
    targets: str | Iterable[str] = ("all_linear",),
    rest: Rest = "refuse",
    name: str = "extracted",
    task: str = "auto",
    dtype: torch.dtype | None = None,
) -> Composed:
    """Write the difference of two checkpoints of one architecture to ``out``, as a LoRA on the first.

    Args:
        base: the checkpoint that the LoRA is for: a folder, an alias, a GGUF file or a hub id.
        tuned: the other.
        out: the folder to write to.
        rank: of the LoRA.
        targets: which modules' differences become low-rank. Default: all linear ones but the head.
        rest: what to do where something else differs (norms, biases, embeddings, the head): ``"refuse"`` (default),
            ``"keep"`` it whole beside the LoRA, as trained biases and whole modules, or ``"leave"`` it out.
        name: how to call the delta. Default: ``"extracted"``.
        task: what the checkpoints are for. Default: as their config says.
        dtype: the precision of the file. Default: float32.

    Returns:
        What was made, with the error at each site.

    Raises:
        ConfigError: the checkpoints differ in their tensors' names or shapes, or not at all; something but the targets
            differs and is not to; or there is no such checkpoint.
        FileFormatError: a file is damaged.
    """
    check(is_int(rank) and rank >= 1, "rank", "a whole number from 1", rank)
    recipe = Recipe("svd", rank, rest=rest)
    model = _outline(str(base), task)
    check_name(model, name)
    one, other = Checkpoint(base, model), Checkpoint(tuned, model)
    source = _difference(model, one, other, targets, name)
    mixed = recipe.mix([source], [1.0])
    _fill(model, one, {name for module in mixed.whole for name in _parameters(model, module)})
    delta = add(model, build(model, name, mixed, torch.device("cpu")))
    facts = {"Made of": f"`{tuned}`, less its base", "Error": f"{Composed('svd', {}, rank, mixed.losses).error:.3g}"}
    folder = save(delta, out, dtype=dtype, card=facts)
    return Composed("svd", {str(tuned): 1.0, str(base): -1.0}, mixed.rank, mixed.losses, folder=folder)


class Checkpoint:
    """The tensors of a model's files, by the names of its parameters."""

    def __init__(self, source: str | Path, model: nn.Module) -> None:
        self.source = str(source)
        self.files: dict[str, tuple[Any, str]] = {}
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        known = {key: name for name in names for key in (name.removeprefix(prefix), prefix + name, name)}
        for file in _files(self.source):
            keys: list[str] = file.keys()
            for key in keys:
                if key in known:
                    self.files[known[key]] = (file, key)
        for same in _names_by_parameter(model).values():  # a file holds a shared tensor once
            there = next((self.files[name] for name in same if name in self.files), None)
            if there is not None:
                self.files |= {name: there for name in same if name not in self.files}
        missing = [name for name in names if name not in self.files]
        if missing:
            more = f" and {len(missing) - 1} more" * (len(missing) > 1)
            raise ConfigError(
                f"{self.source}: expected a tensor for {missing[0]}{more}, as {type(model).__name__} has it, found "
                "none; name two checkpoints of one architecture, or their task"
            )

    def __getitem__(self, name: str) -> Tensor:
        file, key = self.files[name]
        tensor: Tensor = file.get_tensor(key)
        return tensor

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, without reading it."""
        file, key = self.files[name]
        return list(file.get_slice(key).get_shape())


def _files(source: str) -> Iterator[Any]:
    place = Path(locate(source))
    if not place.is_dir():
        from huggingface_hub import snapshot_download

        place = Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.json"]))
    index = place / "model.safetensors.index.json"
    found = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
    if not found and (place / "model.safetensors").is_file():
        found = ["model.safetensors"]
    if not found:
        raise FileFormatError(f"{source}: expected model.safetensors, found none; save it again as safetensors")
    for name in found:
        yield _open(place / name)


def _outline(source: str, task: str) -> nn.Module:
    """The model of a checkpoint, without memory."""
    import transformers

    check_choice("task", task, ("auto", *TASKS))
    config = read_config(locate(source))  # a GGUF file as the folder that it is read as
    loader = getattr(transformers, TASKS[task_of(config, source) if task == "auto" else task].loader)
    with torch.device("meta"):
        model: nn.Module = loader.from_config(config)
    model.name_or_path = model.config.name_or_path = source  # type: ignore[assignment, union-attr]
    return model.eval()


def _difference(
    model: nn.Module, one: Checkpoint, other: Checkpoint, targets: str | Iterable[str], name: str
) -> Source:
    """What ``other`` has and ``one`` has not. Tensors are compared here, and read again for their differences."""
    source = Source(name)
    sites = {site.name for site in find_sites(model, targets)}
    for module_name, module in model.named_modules():
        for leaf, _ in module.named_parameters(recurse=False):
            key = f"{module_name}.{leaf}".lstrip(".")
            shapes = one.shape(key), other.shape(key)
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"{key}: expected tensors of one shape, found {shapes[0]} in {one.source} and {shapes[1]} in "
                    f"{other.source}; name two checkpoints of one architecture"
                )
            if torch.equal(one[key], other[key]):
                continue
            if module_name in sites and leaf == "weight":
                make = partial(_change, module, one, other, key)
                source.matrices[module_name] = Dense(make, torch.device("cpu"))
            elif module_name in sites and leaf == "bias" and Shift.fits(module):
                source.biases[module_name] = other[key].float() - one[key].float()
            else:
                source.whole.setdefault(module_name, {})[leaf] = other[key].float() - one[key].float()
    if not source.matrices:
        found = "at no target" if source.rest else "nowhere"
        raise ConfigError(f"{other.source}: expected it to differ from {one.source}, found that it does {found}")
    return source


def _change(module: nn.Module, one: Checkpoint, other: Checkpoint, key: str) -> Tensor:
    return stored(module, other[key].float() - one[key].float())


def _fill(model: nn.Module, checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Give some parameters their values, and all vectors: they are small, and the base is known again by them."""
    wanted = {*names, *(name for name, p in model.named_parameters(remove_duplicate=False) if p.dim() == 1)}
    for name in wanted:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(checkpoint[name], requires_grad=False))


def _parameters(model: nn.Module, module: str) -> list[str]:
    return [f"{module}.{name}" for name, _ in model.get_submodule(module).named_parameters()]
