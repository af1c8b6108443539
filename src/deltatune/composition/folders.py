"""Saved LoRAs as sources, and the LoRA made of them, without a model.

A file holds trained biases and modules as they are, not as differences from the base. Their weighted sum is that of the
differences if the weights add up to one, and every delta has them; other sums need the base.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import deltatune
from deltatune.composition.building import Mixed, padded
from deltatune.composition.source import Source
from deltatune.composition.ways import LowRank
from deltatune.errors import BaseMismatchError, ConfigError, FileFormatError
from deltatune.io.atomic import atomic_files
from deltatune.io.files import (
    CONFIG,
    FORMAT,
    TENSORS,
    Description,
    _damaged,
    _open,
    _read_config,
    _sort_metadata,
    describe,
)
from deltatune.io.identity import _same
from deltatune.io.peft_layout import as_modules, as_targets, from_keys, to_keys
from deltatune.methods.lora import LoRA

__all__ = ["Opened", "check_alike", "check_shares", "open_folder", "write"]

FACTORS = {
    ".lora_A.weight": ".lora_B.weight",
    ".lora_embedding_A": ".lora_embedding_B",
}
"""How a file calls A, and then B."""


@dataclass(frozen=True)
class Opened:
    """A folder with a LoRA in it."""

    about: Description
    config: dict[str, Any]
    """``adapter_config.json``, which names the rank and alpha of each site."""
    source: Source
    """What it changes; its biases and whole modules are values, by their keys in the file, and no differences."""
    lookups: frozenset[str]
    """The sites that are embeddings."""


def open_folder(folder: str | Path) -> Opened:
    """Read a LoRA of ours or of Hugging Face PEFT.

    Raises:
        FileFormatError: there is no delta in the folder, or its tensors do not belong together.
        ConfigError: it is no plain LoRA.
    """
    about = describe(folder)
    config = _read_config(about.folder / CONFIG)
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise ConfigError(
            f"{folder}: expected a LoRA, found {about.method.key}; write it as one by deltatune export --as lora"
        )
    source, lookups = Source(Path(folder).name), set()
    with _open(about.file) as file:
        keys: list[str] = file.keys()
        tensors = from_keys({key: file.get_tensor(key) for key in keys})
    for a, b in FACTORS.items():
        for key in [key for key in tensors if key.endswith(a)]:
            site = key.removesuffix(a)
            source.matrices[site] = _product(about, config, site, tensors.pop(key), tensors.pop(site + b, None))
            tensors.pop(f"{site}.base_layer.weight", None)  # PEFT repeats an adapted embedding's own
            if "embedding" in a:
                lookups.add(site)
    strays = [key for key in tensors if ".lora_" in key]
    if strays:
        raise FileFormatError(f"{about.file}: expected A and B of each site, found {strays[0]} alone; fetch it again")
    source.whole = {key: {"": tensor} for key, tensor in tensors.items()}
    return Opened(about, config, source, frozenset(lookups))


def _product(about: Description, config: Mapping[str, Any], site: str, A: Tensor, B: Tensor | None) -> LowRank:
    if B is None or A.dim() != 2 or B.dim() != 2 or len(A) != B.shape[1]:
        shapes = [None if each is None else list(each.shape) for each in (A, B)]
        raise FileFormatError(
            f"{about.file}: {site}: expected A [r, in] and B [out, r], found {shapes[0]} and {shapes[1]}; "
            "fetch it again"
        )
    return LowRank(A, B, _scale(about, config, site, len(A)))


def _scale(about: Description, config: Mapping[str, Any], site: str, rank: int) -> float:
    """The factor on BA: from the header, which can not be another file's, where that names it without a model."""
    method = about.method
    if about.base is not None and isinstance(method, LoRA) and not (method.rank_pattern or method.alpha_pattern):
        return method.scale(method.r, method.alpha)
    try:
        alpha = _setting(config, site, "alpha_pattern", config.get("lora_alpha", 8))
    except (AttributeError, TypeError, ValueError, re.error) as error:
        raise FileFormatError(
            f"{about.folder / CONFIG}: expected an alpha for {site}, found none ({error}); fetch it again"
        ) from None
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(config: Mapping[str, Any], site: str, pattern: str, default: float) -> float:
    """A site's value, as PEFT finds it: that of the first pattern that fits the end of its name."""
    for key, value in (config.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({key})$", site):
            return float(value)
    return float(default)


def check_alike(opened: Sequence[Opened]) -> None:
    """Refuse LoRAs of different bases, as far as their files tell."""
    known = [each.about for each in opened if each.about.base is not None]
    shapes: dict[str, tuple[int, int]] = {}
    for each in opened:
        for site, change in each.source.matrices.items():
            assert isinstance(change, LowRank)
            shape = (change.B.shape[0], change.A.shape[1])
            if shapes.setdefault(site, shape) != shape:
                raise BaseMismatchError(
                    f"{each.about.folder}: {site}: expected a change of {list(shapes[site])}, found {list(shape)}; "
                    "compose deltas of one base"
                )
    for about in known:
        one, other = known[0].base, about.base
        if not _is_one_base(known[0], about):
            names = [base and (base.get("name_or_path") or base.get("architecture")) for base in (one, other)]
            raise BaseMismatchError(
                f"{about.folder}: expected a delta of {names[0]}, found one of {names[1]}, another base; "
                "compose deltas of one base"
            )


def _is_one_base(one: Description, other: Description) -> bool:
    a, b = one.base or {}, other.base or {}
    try:
        alike = bool(a["architecture"] == b["architecture"])
        if a["without"] == b["without"]:
            alike = alike and a["shapes"] == b["shapes"]
        shared = a["sample"].keys() & b["sample"].keys()
        return alike and all(_same(a["sample"][name], b["sample"][name]) for name in shared)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(other.file, error) from None


def check_shares(opened: Sequence[Opened], weights: Sequence[float]) -> None:
    """Refuse a sum of biases or whole modules that needs the base."""
    keys = [frozenset(each.source.whole) for each in opened]
    if any(keys) and not (len(set(keys)) == 1 and math.isclose(sum(weights), 1.0, rel_tol=1e-6)):
        key = min(frozenset.union(*keys))
        raise ConfigError(
            f"{key}: expected weights that add up to 1 over deltas that all train it, found {list(weights)}, for which "
            "the base is needed; attach them and pass model, or leave it out with rest='leave'"
        )


def write(folder: Path, name: str, mixed: Mixed, opened: Sequence[Opened], facts: Mapping[str, str]) -> None:
    """Write what was made of LoRAs, as :func:`deltatune.io.files.save` does.

    Raises:
        FileFormatError: it holds NaN or infinity.
    """
    first, lookups = opened[0], frozenset.union(*(each.lookups for each in opened))
    tensors = {key: values[""] for key, values in mixed.whole.items()}
    for site, merged in mixed.matrices.items():
        ends = list(FACTORS.items())[site in lookups]
        tensors |= {site + end: tensor for end, tensor in zip(ends, padded(merged, mixed.rank), strict=True)}
    for key, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise FileFormatError(f"{key}: expected finite numbers, found NaN or infinity; change the weights")
    targets = _targets(opened, list(mixed.matrices))
    bias = str(first.config.get("bias") or "none") if mixed.whole else "none"
    modules = first.config.get("modules_to_save") if mixed.whole else None
    lora = LoRA(
        targets=as_targets(targets),
        r=mixed.rank,
        alpha=mixed.rank,
        bias=bias,  # type: ignore[arg-type]  # it was read from a LoRA
        train_also=as_modules(modules),
    )
    base = next((each.about.base for each in opened if each.about.base is not None), None)
    named = first.config.get("base_model_name_or_path") or (base or {}).get("name_or_path")
    about = {"format": FORMAT, "version": deltatune.__version__, "name": name, "method": lora.to_config(), "base": base}
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": named,
        "r": mixed.rank,
        "lora_alpha": mixed.rank,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "modules_to_save": modules,
        "bias": bias,
        "fan_in_fan_out": any(each.config.get("fan_in_fan_out") for each in opened),
        "inference_mode": True,
        "init_lora_weights": True,
        "task_type": first.config.get("task_type"),
    }
    ours = {} if base is None else {"deltatune": json.dumps(about, sort_keys=True)}
    with atomic_files(folder) as scratch:
        ready = {key: tensor.contiguous().cpu() for key, tensor in to_keys(tensors).items()}
        save_file(ready, scratch / TENSORS, metadata={"format": "pt", **ours})
        _sort_metadata(scratch / TENSORS)
        (scratch / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (scratch / "README.md").write_text(_card(name, str(named), mixed, facts), encoding="utf-8")


def _targets(opened: Sequence[Opened], sites: Sequence[str]) -> list[str]:
    """The ends of names that all deltas list, which mean just their sites; whole names where a delta says more."""
    listed: dict[str, None] = {}
    for each in opened:
        targets = each.config.get("target_modules")
        narrowed = any(each.config.get(key) for key in ("layers_to_transform", "exclude_modules"))
        if not isinstance(targets, list) or narrowed:
            return list(sites)
        listed |= dict.fromkeys(targets)
    return sorted(listed)


def _card(name: str, base: str, mixed: Mixed, facts: Mapping[str, str]) -> str:
    rows = {
        "Base": f"`{base}`",
        "Method": "`lora`",
        "Rank": str(mixed.rank),
        "Sites": f"{len(mixed.matrices)} modules",
        "Made with": f"deltatune {deltatune.__version__}",
        **facts,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    front = f"---\nbase_model: {json.dumps(base)}\nlibrary_name: peft\ntags:\n- deltatune\n- lora\n---\n"
    return f"{front}\n# {name}\n\nA LoRA for `{base}`, composed of others.\n\n| | |\n| --- | --- |\n{table}\n"
