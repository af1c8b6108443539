"""deltatune: parameter-efficient fine-tuning (delta tuning) of Hugging Face Transformer models.

Names are imported when first used, so ``import deltatune`` and the command line's help cost no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "LoRA": "deltatune.methods.lora",
    "Method": "deltatune.methods.base",
    "Trainer": "deltatune.train.trainer",
    "attach": "deltatune.attach.lifecycle",
    "checkpoint_contexts": "deltatune.attach.lifecycle",
    "deltas": "deltatune.attach.lifecycle",
    "detach": "deltatune.attach.lifecycle",
    "disable": "deltatune.attach.lifecycle",
    "disabled": "deltatune.attach.lifecycle",
    "enable": "deltatune.attach.lifecycle",
    "load": "deltatune.io.files",
    "load_base": "deltatune.io.bases",
    "merge": "deltatune.attach.merge",
    "on_step": "deltatune.train.hooks",
    "parameter_groups": "deltatune.train.groups",
    "prepare": "deltatune.train.hooks",
    "routed": "deltatune.attach.lifecycle",
    "save": "deltatune.io.files",
    "summary": "deltatune.attach.summary",
    "unmerge": "deltatune.attach.merge",
}
"""Each public name and the module it comes from."""

__all__ = [
    "LoRA",
    "Method",
    "Trainer",
    "__version__",
    "attach",
    "checkpoint_contexts",
    "deltas",
    "detach",
    "disable",
    "disabled",
    "enable",
    "load",
    "load_base",
    "merge",
    "on_step",
    "parameter_groups",
    "prepare",
    "routed",
    "save",
    "summary",
    "unmerge",
]

if TYPE_CHECKING:
    from deltatune.attach.lifecycle import (
        attach,
        checkpoint_contexts,
        deltas,
        detach,
        disable,
        disabled,
        enable,
        routed,
    )
    from deltatune.attach.merge import merge, unmerge
    from deltatune.attach.summary import summary
    from deltatune.io.bases import load_base
    from deltatune.io.files import load, save
    from deltatune.methods.base import Method
    from deltatune.methods.lora import LoRA
    from deltatune.train.groups import parameter_groups
    from deltatune.train.hooks import on_step, prepare
    from deltatune.train.trainer import Trainer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deltatune' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
