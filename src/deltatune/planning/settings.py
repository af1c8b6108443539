"""How a plan's step is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from deltatune.errors import ConfigError
from deltatune.io.bases import Dtype, Quant
from deltatune.planning.rehearsal import Batch

__all__ = ["Device", "Settings"]

Device: TypeAlias = Literal["cuda", "mps", "cpu"]
"""What runs the step."""


@dataclass(frozen=True)
class Settings:
    """See :func:`deltatune.planning.plan.plan`, whose arguments these are.

    Raises:
        ConfigError: a value is out of range.
    """

    seq_len: int
    batch_tokens: int
    shared: int = 0
    learned: float = 0.5
    accumulation: int = 1
    dtype: Dtype = "auto"
    quant: Quant | None = None
    optimizer: str = "adamw_torch_fused"
    checkpointing: bool = False
    savings: bool = True
    device: Device = "cuda"

    def __post_init__(self) -> None:
        for name in ("seq_len", "batch_tokens", "accumulation"):
            _check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _check(self.device in get_args(Device), "device", f"one of {', '.join(get_args(Device))}", self.device)
        _check(self.seq_len <= self.batch_tokens, "batch_tokens", f"at least a text, {self.seq_len}", self.batch_tokens)
        _check(0 <= self.shared <= self.seq_len, "shared", f"0 to {self.seq_len}", self.shared)
        _check(0 < self.learned <= 1, "learned", "a share above 0, up to 1", self.learned)

    @property
    def batch(self) -> Batch:
        """What a step is made on."""
        return Batch(self.batch_tokens, self.seq_len, self.shared, self.learned)

    def of_cost(self) -> dict[str, Any]:
        """The arguments of :func:`deltatune.planning.cost.cost_of`."""
        return {
            "batch": self.batch,
            "optimizer": self.optimizer,
            "device": self.device,
            "accumulation": self.accumulation,
            "savings": self.savings,
            "checkpoints": None if self.checkpointing else 0,
        }


def _check(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, found {found!r}; change it")
