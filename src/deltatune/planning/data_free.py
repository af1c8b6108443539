"""What code is told that asks for data where there are none: yes, each time.

Models ask whether a mask lets everything through, or which of its places do. On the meta device nothing is known, and
the answer that all of them do is that for full batches, which is what a plan is made for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["AnsweringYes"]

aten = torch.ops.aten


class AnsweringYes(TorchDispatchMode):
    """Within this context masks on the meta device are full."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is aten._local_scalar_dense.default and args[0].is_meta:
            return True  # which is 1 as well
        if function is aten.nonzero.default and _is_mask(args[0]):
            return args[0].new_empty(args[0].numel(), args[0].dim(), dtype=torch.long)
        if function is aten.index.Tensor and any(map(_is_mask, args[1])):
            args = (args[0], [place for index in args[1] for place in _places(index)], *args[2:])
        return function(*args, **(kwargs or {}))


def _is_mask(found: Any) -> bool:
    return isinstance(found, Tensor) and found.is_meta and found.dtype == torch.bool


def _places(index: Any) -> list[Any]:
    """A mask as the numbers of its places, a tensor for each of its axes; whatever else as it is."""
    if not _is_mask(index):
        return [index]
    return [index.new_empty(index.numel(), dtype=torch.long) for _ in range(index.dim())]
