"""deltatune: parameter-efficient fine-tuning (delta tuning) of Hugging Face Transformer models.

Names are imported when first used, so ``import deltatune`` and the command line's help cost no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES: dict[str, str] = {
    "AdaLoRA": "deltatune.methods.adalora",
    "BitFit": "deltatune.methods.bitfit",
    "BlackBox": "deltatune.decoding.black_box",
    "ChildTuning": "deltatune.methods.child",
    "DoRA": "deltatune.methods.dora",
    "Endpoint": "deltatune.decoding.endpoint",
    "Fusion": "deltatune.methods.fusion",
    "Houlsby": "deltatune.methods.houlsby",
    "IA3": "deltatune.methods.ia3",
    "LoRA": "deltatune.methods.lora",
    "Method": "deltatune.methods.base",
    "Norm": "deltatune.methods.norm",
    "PTuning": "deltatune.methods.ptuning",
    "Parallel": "deltatune.methods.parallel",
    "PeftMethod": "deltatune.methods.peft",
    "Pfeiffer": "deltatune.methods.pfeiffer",
    "PrefixTuning": "deltatune.methods.prefix",
    "PromptTuning": "deltatune.methods.prompt",
    "ProxyTuned": "deltatune.decoding.proxy",
    "ReLoRA": "deltatune.methods.relora",
    "Packing": "deltatune.packing.settings",
    "Savings": "deltatune.train.savings",
    "Trainer": "deltatune.train.trainer",
    "advise": "deltatune.planning.advice",
    "as_lora": "deltatune.methods.as_lora",
    "attach": "deltatune.attachment.lifecycle",
    "average": "deltatune.attachment.average",
    "capabilities": "deltatune.attachment.capabilities",
    "checkpoint_contexts": "deltatune.attachment.lifecycle",
    "compare": "deltatune.comparing.study",
    "compose": "deltatune.composition.compose",
    "deltas": "deltatune.attachment.lifecycle",
    "detach": "deltatune.attachment.lifecycle",
    "disable": "deltatune.attachment.lifecycle",
    "disabled": "deltatune.attachment.lifecycle",
    "enable": "deltatune.attachment.lifecycle",
    "extract": "deltatune.composition.checkpoints",
    "fuse": "deltatune.methods.fusion",
    "load": "deltatune.io.files",
    "load_base": "deltatune.io.bases",
    "lorahub": "deltatune.composition.lorahub",
    "merge": "deltatune.attachment.merge",
    "on_step": "deltatune.train.hooks",
    "parameter_groups": "deltatune.train.groups",
    "plan": "deltatune.planning.plan",
    "prepare": "deltatune.train.hooks",
    "routed": "deltatune.attachment.lifecycle",
    "save": "deltatune.io.files",
    "score_answers": "deltatune.packing.scoring",
    "summary": "deltatune.attachment.summary",
    "unmerge": "deltatune.attachment.merge",
}
"""Each public name and the module it comes from."""

__all__ = [
    "IA3",
    "AdaLoRA",
    "BitFit",
    "BlackBox",
    "ChildTuning",
    "DoRA",
    "Endpoint",
    "Fusion",
    "Houlsby",
    "LoRA",
    "Method",
    "Norm",
    "PTuning",
    "Packing",
    "Parallel",
    "PeftMethod",
    "Pfeiffer",
    "PrefixTuning",
    "PromptTuning",
    "ProxyTuned",
    "ReLoRA",
    "Savings",
    "Trainer",
    "__version__",
    "advise",
    "as_lora",
    "attach",
    "average",
    "capabilities",
    "checkpoint_contexts",
    "compare",
    "compose",
    "deltas",
    "detach",
    "disable",
    "disabled",
    "enable",
    "extract",
    "fuse",
    "load",
    "load_base",
    "lorahub",
    "merge",
    "on_step",
    "parameter_groups",
    "plan",
    "prepare",
    "routed",
    "save",
    "score_answers",
    "summary",
    "unmerge",
]

if TYPE_CHECKING:
    from deltatune.attachment.average import average
    from deltatune.attachment.capabilities import capabilities
    from deltatune.attachment.lifecycle import (
        attach,
        checkpoint_contexts,
        deltas,
        detach,
        disable,
        disabled,
        enable,
        routed,
    )
    from deltatune.attachment.merge import merge, unmerge
    from deltatune.attachment.summary import summary
    from deltatune.comparing.study import compare
    from deltatune.composition.checkpoints import extract
    from deltatune.composition.compose import compose
    from deltatune.composition.lorahub import lorahub
    from deltatune.decoding.black_box import BlackBox
    from deltatune.decoding.endpoint import Endpoint
    from deltatune.decoding.proxy import ProxyTuned
    from deltatune.io.bases import load_base
    from deltatune.io.files import load, save
    from deltatune.methods.adalora import AdaLoRA
    from deltatune.methods.as_lora import as_lora
    from deltatune.methods.base import Method
    from deltatune.methods.bitfit import BitFit
    from deltatune.methods.child import ChildTuning
    from deltatune.methods.dora import DoRA
    from deltatune.methods.fusion import Fusion, fuse
    from deltatune.methods.houlsby import Houlsby
    from deltatune.methods.ia3 import IA3
    from deltatune.methods.lora import LoRA
    from deltatune.methods.norm import Norm
    from deltatune.methods.parallel import Parallel
    from deltatune.methods.peft import PeftMethod
    from deltatune.methods.pfeiffer import Pfeiffer
    from deltatune.methods.prefix import PrefixTuning
    from deltatune.methods.prompt import PromptTuning
    from deltatune.methods.ptuning import PTuning
    from deltatune.methods.relora import ReLoRA
    from deltatune.packing.scoring import score_answers
    from deltatune.packing.settings import Packing
    from deltatune.planning.advice import advise
    from deltatune.planning.plan import plan
    from deltatune.train.groups import parameter_groups
    from deltatune.train.hooks import on_step, prepare
    from deltatune.train.savings import Savings
    from deltatune.train.trainer import Trainer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deltatune' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
