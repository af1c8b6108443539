"""Autocast as a context to enter later, on any device: those that know none have nothing to enter."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["as_now", "off"]


def as_now(device: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast as it is at present for a kind of device."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, dtype=torch.get_autocast_dtype(device))


def off(device: str) -> contextlib.AbstractContextManager[Any]:
    """No autocast for a kind of device."""
    return (
        torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else contextlib.nullcontext()
    )
