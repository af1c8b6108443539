"""Drawing the few rows to learn from: as many of each class as there are, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deltatune.errors import ConfigError, DataError

__all__ = ["SHOTS", "draw_shots"]

SHOTS = (0, 4, 8, 16, 32, 64, 128, 256, 512)
"""How many rows the paper learns from."""


def draw_shots(y: Sequence[Any] | npt.NDArray[Any] | pd.Series, k: int | None, seed: int = 0) -> npt.NDArray[np.intp]:
    """Draw rows, as many of each class as possible, none twice.

    Each class is shuffled, and the classes give a row each in turn; one that has no more is passed over. So a draw
    holds all rows of a smaller draw with the same seed. The paper draws with replacement; a row twice teaches nothing.

    Args:
        y: the class of each row.
        k: rows of all classes together; ``None`` for all.
        seed: of the draw. Default: 0.

    Returns:
        Row numbers in the order of the draw.

    Raises:
        ConfigError: k is negative, or less than there are classes.
        DataError: there are fewer rows than k, or a row has no class.
    """
    codes, classes = pd.factorize(np.asarray(y, dtype=object))
    if (codes < 0).any():
        raise DataError(f"labels: expected one for each row, found none in row {int(codes.argmin())}; drop such rows")
    if k is None:
        k = len(codes)
    if k > len(codes):
        raise DataError(f"shots: expected at most {len(codes)}, as there are rows, found {k}; ask for fewer")
    if k < 0 or 0 < k < len(classes):
        raise ConfigError(f"shots: expected 0 or at least {len(classes)}, one a class, found {k}; ask for more")
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(len(codes))
    turn = rng.permutation(len(classes))  # which class is first to give one more where k does not divide evenly
    rounds = pd.Series(codes[mixed]).groupby(codes[mixed]).cumcount().to_numpy()
    order = mixed[np.lexsort((turn[codes[mixed]], rounds))]
    return np.asarray(order[:k], dtype=np.intp)
