"""How strongly the experts steer: one number, or one for each token that is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from deltatune.errors import ConfigError
from deltatune.methods.base import is_number

__all__ = ["Alpha", "alpha_at", "check_alpha"]

Alpha: TypeAlias = float | Sequence[float] | Callable[[int], float]
"""A number; one for each written token, of which the last holds on; or a function of the token's number, from 0."""


def check_alpha(alpha: Alpha) -> None:
    """Refuse what can steer nothing.

    Raises:
        ConfigError: it is empty, or no finite number.
    """
    if callable(alpha):
        return
    values = [alpha] if isinstance(alpha, (int, float)) else list(alpha)
    if not values:
        raise ConfigError("alpha: expected a number for each token, found none; give at least one")
    for value in values:
        _finite(value)


def alpha_at(alpha: Alpha, step: int) -> float:
    """The strength for the token with the number ``step``; what comes before the first counts as the first."""
    step = max(step, 0)
    if callable(alpha):
        return _finite(alpha(step))
    return float(alpha) if isinstance(alpha, (int, float)) else float(alpha[min(step, len(alpha) - 1)])


def _finite(value: object) -> float:
    if not is_number(value) or not math.isfinite(value):
        raise ConfigError(f"alpha: expected a finite number, found {value!r}; the paper takes 1.0")
    return float(value)
