"""The table of methods. A new method is one file in this folder and one row here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from deltatune.methods.base import Method

__all__ = ["METHODS", "from_config", "from_peft_config", "method_class"]

METHODS: dict[str, str] = {
    "lora": "LoRA",
    "prefix": "PrefixTuning",
    "prompt": "PromptTuning",
    "ptuning": "PTuning",
}
"""A method's key, which is the name of its file here, to the name of its class. Nothing is imported until used."""


def method_class(key: str) -> type[Method]:
    """The class of a method.

    Raises:
        ConfigError: no such method.
    """
    if key not in METHODS:
        raise ConfigError(f"method: expected one of {', '.join(METHODS)}, found {key!r}; see `deltatune schema`")
    return getattr(importlib.import_module(f"{__name__}.{key}"), METHODS[key])  # type: ignore[no-any-return]


def from_config(config: Mapping[str, Any]) -> Method:
    """The method that plain data describe: ``{"method": "lora", "r": 8}``."""
    settings = dict(config)
    return method_class(str(settings.pop("method", None))).from_config(settings)


def from_peft_config(config: Mapping[str, Any]) -> Method:
    """The method that an ``adapter_config.json`` of Hugging Face PEFT describes.

    Raises:
        ConfigError: no method here computes what it describes.
    """
    for key in METHODS:
        method = method_class(key).from_peft_config(config)
        if method is not None:
            return method
    kind = config.get("peft_type")
    traits = [name for name, value in config.items() if name.startswith("use_") and value]
    raise ConfigError(
        f"adapter_config.json: expected a method among {', '.join(METHODS)}, found peft_type {kind!r}"
        f"{' with ' + ', '.join(traits) if traits else ''}; convert it with Hugging Face PEFT first"
    )
