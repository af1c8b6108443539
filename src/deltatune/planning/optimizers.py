"""What an optimiser keeps for each number that it trains."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from deltatune.errors import ConfigError

__all__ = ["OPTIMIZERS", "Optimizer", "optimizer"]

BLOCK = 256
"""So many numbers of an 8-bit state share a scale of 4 bytes (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861)."""
TOGETHER = ("cuda", "xpu")
"""Devices on which torch takes all tensors together by default."""
SMALL = 4096
"""Tensors of fewer numbers keep a 32-bit state in bitsandbytes."""


class Optimizer(NamedTuple):
    """What an optimiser keeps beside parameters and gradients."""

    moments: int
    """How many numbers for each trained one."""
    bits: int | None = None
    """Of each of them; ``None``: as many as the parameter has."""
    copies: int = 0
    """How many numbers for each trained one it needs while it makes its step, where it takes all tensors together."""
    alone: int = 0
    """How many for each of the largest tensor, where it takes one after the other."""
    factored: bool = False
    """Whether a matrix's moment is kept as a row and a column."""

    def state(self, parameter: Tensor) -> int:
        """Bytes between steps."""
        count = parameter.numel()
        if self.factored and parameter.dim() > 1:
            rows, columns = parameter.shape[-2:]
            count = count // (rows * columns) * (rows + columns)
        if self.bits == 8 and count >= SMALL:
            return self.moments * (count + 4 * -(-count // BLOCK))
        return self.moments * count * (parameter.element_size() if self.bits is None else 4)

    def scratch(self, parameters: Iterable[Tensor], device: str) -> int:
        """Bytes during its step, beside the state."""
        sizes = [parameter.numel() * (parameter.element_size() if self.bits is None else 4) for parameter in parameters]
        if self.copies and device in TOGETHER:
            return self.copies * sum(sizes)
        return self.alone * max(sizes, default=0)


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw_torch": Optimizer(2, copies=1, alone=2),
    "adamw_torch_fused": Optimizer(2),
    "adamw_8bit": Optimizer(2, bits=8),
    "paged_adamw_32bit": Optimizer(2, bits=32),
    "paged_adamw_8bit": Optimizer(2, bits=8),
    "lion_8bit": Optimizer(1, bits=8),
    "paged_lion_8bit": Optimizer(1, bits=8),
    "adafactor": Optimizer(1, bits=32, alone=4, factored=True),
    "rmsprop": Optimizer(1, copies=1, alone=1),
    "adagrad": Optimizer(1, copies=1, alone=1),
    "sgd": Optimizer(0),
}
"""Under the names of the run's settings. AdamW keeps two moments, Lion, RMSprop and Adagrad one, Adafactor a row and a
column of one, plain SGD nothing. Those of torch that take all tensors together need a copy of the gradients meanwhile,
on a GPU; elsewhere they take one tensor after the other, as Adafactor does everywhere."""


def optimizer(name: str) -> Optimizer:
    """What is known of an optimiser.

    Raises:
        ConfigError: it is not in the table.
    """
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(name, OPTIMIZERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise ConfigError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, found {name!r}; {hint}")
    return OPTIMIZERS[name]
