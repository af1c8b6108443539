"""The two sides of a comparison: the same LoRA on the same base, by deltatune and by Hugging Face PEFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

TARGETS = {
    "q,v": ["q_proj", "v_proj"],
    "all linear": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}


@dataclass(frozen=True)
class Side:
    """One library: how it attaches a LoRA to a base, saves it and loads it again."""

    name: str
    attach: Callable[[nn.Module, list[str]], Any]
    save: Callable[[Any, Path], Any]
    load: Callable[[nn.Module, Path], Any]
    model: Callable[[nn.Module, Any], nn.Module]


def deltatune_side() -> Side:
    import deltatune as dt

    return Side(
        "deltatune",
        attach=lambda base, targets: dt.attach(base, dt.LoRA(r=8, alpha=16, targets=tuple(targets))),
        save=dt.save,
        load=lambda base, folder: dt.load(base, folder, trainable=True),
        model=lambda base, delta: base,
    )


def peft_side() -> Side:
    import peft

    def attach(base: nn.Module, targets: list[str]) -> Any:
        return peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules=targets))

    return Side(
        "peft",
        attach=attach,
        save=lambda model, folder: model.save_pretrained(str(folder)),
        load=lambda base, folder: peft.PeftModel.from_pretrained(base, str(folder), is_trainable=True),
        model=lambda base, wrapped: wrapped,
    )


SIDES: dict[str, Callable[[], Side]] = {"deltatune": deltatune_side, "peft": peft_side}


def batch(vocabulary: int, rows: int = 2, tokens: int = 256) -> dict[str, torch.Tensor]:
    """A fixed batch without padding, so that both sides do exactly the same work."""
    ids = torch.randint(vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids.clone()}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: dict[str, torch.Tensor]) -> float:
    """One step of the plain loop."""
    loss = model(**inputs).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
