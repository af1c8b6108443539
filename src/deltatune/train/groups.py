"""Parameter groups for an optimiser: what trains, at which rate, and what decays."""

from __future__ import annotations

from typing import Any

from torch import nn

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.errors import AttachError

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """The groups to give to any ``torch.optim`` optimiser.

    A method may ask for another learning rate for some of its tensors (LoRA+ does). Biases, norms and other vectors
    do not decay, nor do entries taken from such.

    Args:
        model: a model with deltas.
        lr: the learning rate of the run.
        weight_decay: for matrices. Default: 0.

    Raises:
        AttachError: nothing is attached, or nothing attached is trainable.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for delta in bank_of(unwrap(model)):
        for name, parameter in delta.named_parameters():
            if parameter.requires_grad:
                part, _, attribute = name.removeprefix("parts.").partition(".")
                rate = lr * delta.method.learning_rate_scale(name)
                decay = weight_decay if delta.part(int(part)).decays(attribute) else 0.0
                group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
                group["params"].append(parameter)
    if not groups:
        raise AttachError("training: expected a trainable delta, found all frozen; call delta.unfreeze()")
    return list(groups.values())
