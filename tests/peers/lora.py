"""A LoRA of Hugging Face PEFT and ours side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Replacement
from deltatune.io.files import TENSORS
from deltatune.methods.lora import LoRAPart
from deltatune.methods.shift import Shift
from tests.models.families import Family


def theirs(family: Family, **settings: Any) -> Any:
    """A model of the family with PEFT's LoRA on it, as if it had been trained."""
    model: Any = peft.get_peft_model(family.model(), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **settings})).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


def opened(family: Family, folder: Path) -> Any:
    """A model of the family with PEFT's reading of a folder; every tensor of the file has to find its place."""
    model: Any = peft.PeftModel.from_pretrained(family.model(), folder).eval()
    weights = peft.utils.load_peft_weights(str(folder))
    assert weights.keys() == load_file(folder / TENSORS).keys()
    result = peft.set_peft_model_state_dict(model, weights)
    assert result.unexpected_keys == []
    assert not [key for key in result.missing_keys if "lora_" in key or "modules_to_save" in key]
    return model


def gradients_of_theirs(model: nn.Module, family: Family) -> dict[str, Tensor]:
    """By the names of the base's modules, without PEFT's wrappers; a tied one by all its names."""
    model.zero_grad()
    family.loss(model).backward()
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.grad is not None:
            for wrapper in ("base_model.model.", "modules_to_save.default.", "base_layer.", ".default"):
                name = name.replace(wrapper, "")
            found[name.removesuffix(".weight") if ".lora_" in name else name] = parameter.grad
    return found


def gradients_of_ours(model: nn.Module, family: Family, delta: Delta) -> dict[str, Tensor]:
    """By the same names."""
    model.zero_grad()
    family.loss(model).backward()
    found: dict[str, Tensor | None] = {}
    for site, part in delta.items():
        if isinstance(part, Replacement):
            found |= {f"{site}.{name}": parameter.grad for name, parameter in part.copy.named_parameters()}
            continue
        if isinstance(part, LoRAPart):
            a, b = ("lora_embedding_A", "lora_embedding_B") if part.is_lookup else ("lora_A", "lora_B")
            found |= {f"{site}.{a}": part.lora_A.grad, f"{site}.{b}": part.lora_B.grad}
        shift = part if isinstance(part, Shift) else part.shift
        if shift is not None:
            found[f"{site}.bias"] = shift.delta.grad
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def loaded(family: Family, folder: Path, **how: Any) -> tuple[nn.Module, Delta]:
    """A model of the family with our reading of a folder."""
    model = family.model()
    return model, dt.load(model, folder, **how)
