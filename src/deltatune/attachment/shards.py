"""A base whose parameters FSDP2 (``torch.distributed.fsdp.fully_shard``) has spread over several processes.

A parameter then is a ``DTensor``: each process has a part of it, and its layer gathers it for the length of a call. The
hooks of deltas run within such a call, so they meet plain tensors; what looks at the base at other times asks here.
Deltas themselves are not spread; see :mod:`deltatune.train.distributed`.
"""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn

__all__ = ["architecture", "is_sharded", "whole"]

if torch.distributed.is_available():
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    SHARDED: tuple[type, ...] = (FSDPModule,)
    SHARD: tuple[type, ...] = (DTensor,)
else:  # some builds of torch come without
    SHARDED = SHARD = ()


def architecture(model: nn.Module) -> str:
    """The name of a model's class; ``fully_shard`` puts a class of its own before it."""
    return next(kind.__name__ for kind in type(model).__mro__ if not issubclass(kind, SHARDED))


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters of ``model`` are spread over processes."""
    return any(isinstance(module, SHARDED) for module in model.modules())


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with all its parts. Gathers them, so every process has to call it, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, SHARD) else tensor  # type: ignore[attr-defined]
