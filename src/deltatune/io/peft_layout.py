"""Hugging Face PEFT's file layout: where a tensor stands in ``adapter_model.safetensors``.

A tensor of site ``s`` is under ``base_model.model.<s>.<name>``. PEFT writes some more for its own wrappers; what only
repeats or restates the base is dropped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from deltatune.attach.sites import base_modules

__all__ = ["PREFIX", "is_redundant", "key_of", "short_names"]

PREFIX = "base_model.model."


def key_of(site: str, name: str) -> str:
    """The key of tensor ``name`` of ``site``."""
    return f"{PREFIX}{site}.{name}"


def is_redundant(key: str, expected: Mapping[str, object]) -> bool:
    """Whether ``key`` only repeats something: PEFT saves wrapped heads thrice when it trains their biases."""
    for wrapper in (".modules_to_save.", ".original_module."):
        if wrapper in key and key.replace(wrapper, ".") in expected:
            return True
    return False


def short_names(model: nn.Module, sites: Iterable[str]) -> list[str]:
    """The shortest list of names that PEFT resolves to exactly ``sites``: their last parts, else the whole names."""
    whole = set(sites)
    ends = sorted({site.rpartition(".")[2] for site in whole})
    matched = {name for name, _ in base_modules(model) if name.rpartition(".")[2] in ends}
    return ends if matched == whole else sorted(whole)
