"""The table of methods. A new method is one file in this folder and one row here."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from deltatune.methods.base import Method

__all__ = ["METHODS", "as_method", "from_config", "from_peft_config", "method_class"]

METHODS: dict[str, str] = {
    "adalora": "AdaLoRA",
    "bitfit": "BitFit",
    "child": "ChildTuning",
    "dora": "DoRA",
    "fusion": "Fusion",
    "houlsby": "Houlsby",
    "ia3": "IA3",
    "lora": "LoRA",
    "norm": "Norm",
    "parallel": "Parallel",
    "peft": "PeftMethod",
    "pfeiffer": "Pfeiffer",
    "prefix": "PrefixTuning",
    "prompt": "PromptTuning",
    "ptuning": "PTuning",
    "relora": "ReLoRA",
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


def as_method(method: Any) -> Method:
    """The method that a user means: one of deltatune's, one as plain data, or a config of Hugging Face PEFT's.

    A config of PEFT becomes deltatune's own method where there is one that computes the same from the same start, else
    one that works through PEFT's layers; :class:`~deltatune.PeftMethod` asks for those in any case.

    Raises:
        ConfigError: it is nothing of the kind, or PEFT's method can not be attached.
    """
    from deltatune.methods.base import Method

    if isinstance(method, Method):
        return method
    if isinstance(method, Mapping):
        return from_config(method)
    if not (hasattr(method, "peft_type") and hasattr(method, "to_dict")):
        raise ConfigError(
            f"method: expected one of deltatune's, such as dt.LoRA(), or a config of PEFT, found {method!r}; pass one"
        )
    *native, rest = _readers()
    through_peft = rest.from_config({"config": method})
    settings: Mapping[str, Any] = through_peft.to_config()["config"]  # only what differs from PEFT's defaults
    if not any(name.startswith("init_") for name in settings):
        for cls in native:
            with contextlib.suppress(ConfigError):
                found = cls.from_peft_config(method.to_dict() | settings)
                if found is not None:
                    return found if settings.get("modules_to_save") else dataclasses.replace(found, train_also=None)
    return through_peft


def _readers() -> list[type[Method]]:
    """The methods, with what reads any config of PEFT at the end."""
    return sorted((method_class(key) for key in METHODS), key=lambda cls: cls.reads_the_rest)


def from_peft_config(config: Mapping[str, Any]) -> Method:
    """The method that an ``adapter_config.json`` of Hugging Face PEFT describes.

    Raises:
        ConfigError: no method here computes what it describes.
    """
    for cls in _readers():
        method = cls.from_peft_config(config)
        if method is not None:
            return method
    kind = config.get("peft_type")
    traits = [name for name, value in config.items() if name.startswith("use_") and value]
    raise ConfigError(
        f"adapter_config.json: expected a method among {', '.join(METHODS)}, found peft_type {kind!r}"
        f"{' with ' + ', '.join(traits) if traits else ''}; convert it with Hugging Face PEFT first"
    )
