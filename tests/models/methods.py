"""The methods under test: the rows of the test matrix. A new method is one row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from deltatune.attachment.part import Part
from deltatune.methods.adalora import AdaLoRA
from deltatune.methods.base import Method
from deltatune.methods.bitfit import BitFit
from deltatune.methods.child import ChildTuning
from deltatune.methods.dora import DoRA
from deltatune.methods.fusion import Fusion
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
from tests.models.families import Family


@dataclass(frozen=True)
class Row:
    """How to make a method for a family, and which invariants its paper exempts it from."""

    make: Callable[[Family], Method]
    merges: bool = True
    routes: bool = True
    starts_as_base: bool = True
    in_place: bool = False
    """Whether the base's own parameters hold the delta while it is on."""
    fits: Callable[[Family], bool] = lambda family: True
    """Whether there is anything in a family for the method to act on."""


class TrainedFusion(Fusion):
    """Over adapters that do something, as those that are fused do."""

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        made = super().parts(model, device)
        for buffer in (buffer for part in made.values() for buffer in part.buffers() if not buffer.is_meta):
            buffer.normal_(std=0.3)
        return made


def reads_tokens(family: Family) -> bool:
    return family.name not in ("vit", "clip", "unet")


def reads_tokens_in_order(family: Family) -> bool:
    """Beside padding on its left a soft prompt of T5 is another function: relative positions count the padding."""
    return reads_tokens(family) and not family.name.startswith("t5")


ADAPTERS = {name: {"method": "pfeiffer", "m": 8} for name in "ab"}

# The name before the first "-" is the method's key; what follows tells variants apart.
ROWS: dict[str, Row] = {
    "lora": Row(lambda family: LoRA(r=4, alpha=8, targets=family.targets)),
    "lora-pissa": Row(lambda family: LoRA(r=2, targets=family.targets, init="pissa", bias="lora_only")),
    "dora": Row(lambda family: DoRA(r=4, alpha=8, targets=family.targets)),
    "dora-bias": Row(lambda family: DoRA(r=2, targets=family.targets, init="pissa", bias="lora_only")),
    "adalora": Row(lambda family: AdaLoRA(init_r=4, target_r=2, alpha=99, targets=family.targets)),
    "relora": Row(lambda family: ReLoRA(r=4, alpha=8, restart_every=2, restart_warmup=1, targets=family.targets)),
    "relora-fold": Row(
        lambda family: ReLoRA(r=4, alpha=8, restart_every=2, restart_warmup=1, fold=True, targets=family.targets),
        routes=False,
        in_place=True,
    ),
    "bitfit": Row(lambda family: BitFit(add_missing=family.name in ("t5", "t5-gated", "llama", "qwen3"))),
    "child": Row(lambda family: ChildTuning(mode="random", p=0.2), routes=False, in_place=True),
    "peft": Row(
        lambda family: PeftMethod(config={"peft_type": "VERA", "r": 16, "d_initial": 1.0}, targets=family.targets)
    ),
    "ia3": Row(lambda family: IA3(targets=("c_attn", "mlp_down")) if family.name == "gpt2" else IA3()),
    "norm": Row(lambda family: Norm()),
    "houlsby": Row(lambda family: Houlsby(m=4), merges=False),
    "pfeiffer": Row(lambda family: Pfeiffer(m=16), merges=False),
    "parallel": Row(lambda family: Parallel(m=16, scale=1), merges=False),
    "fusion": Row(lambda family: TrainedFusion(adapters=ADAPTERS), merges=False, starts_as_base=False),
    "prefix": Row(
        lambda family: PrefixTuning(tokens=3, std=1.0),
        merges=False,
        starts_as_base=False,
        fits=lambda family: family.name != "unet",
    ),
    "prompt": Row(
        lambda family: PromptTuning(tokens=3), merges=False, starts_as_base=False, fits=reads_tokens_in_order
    ),
    "ptuning": Row(
        lambda family: PTuning(tokens=3, hidden=8), merges=False, starts_as_base=False, fits=reads_tokens_in_order
    ),
}
