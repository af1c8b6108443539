r"""Maps of class scores to probabilities that can be believed.

Scores are logits or log-probabilities, ``[examples, classes]``; a constant added to a row changes nothing. All maps are

.. math:: q = \mathrm{softmax}(z / T + b)

with a temperature T and an offset b for each class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.errors import DataError

__all__ = ["Calibration", "contextual", "temperature"]

COLDEST, HOTTEST = 1e-2, 1e2
"""Between which temperatures the best is looked for."""


@dataclass(frozen=True)
class Calibration:
    """A map of scores to probabilities."""

    temperature: float = 1.0
    """What scores are divided by: above 1 makes less sure, below 1 surer. It changes no choice."""
    offsets: tuple[float, ...] | None = None
    """What is added to the scores of each class. ``None``: nothing."""

    def __call__(self, scores: Tensor) -> Tensor:
        """Probabilities ``[examples, classes]``, in float64, of scores of that shape."""
        z = scores.double() / self.temperature
        if self.offsets is not None:
            if scores.shape[-1] != len(self.offsets):
                found = f"expected {len(self.offsets)} classes, found {scores.shape[-1]}"
                raise DataError(f"scores: {found}; calibrate on the same ones")
            z = z + torch.tensor(self.offsets, dtype=z.dtype, device=z.device)
        return z.softmax(dim=-1)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, from which the keyword arguments of this class can be read."""
        return {"temperature": self.temperature, "offsets": None if self.offsets is None else list(self.offsets)}


def temperature(scores: Tensor, labels: Tensor | Sequence[int]) -> Calibration:
    r"""The temperature that makes held-out labels the likeliest (Guo et al. 2017, https://arxiv.org/abs/1706.04599,
    section 4.2).

    Each label counts for 1 − ε, the rest for all classes alike, with ε = 1 / (n + 2) of n examples, after Platt (1999):
    few examples that are all told rightly would else make T vanish, and every probability 0 or 1. The loss is convex in
    1/T, so where its slope changes its sign is the minimum; it is found by halving.

    Args:
        scores: of examples that nothing was trained on, ``[examples, classes]``.
        labels: their classes, ``[examples]``.

    Raises:
        DataError: the shapes do not fit, there is no example, or a score is no number.
    """
    z, y = _checked(scores, labels)
    wanted = torch.lerp(z.gather(1, y[:, None])[:, 0], z.mean(dim=-1), 1 / (len(z) + 2))

    def slope(inverse: float) -> float:
        """Of the loss, by 1/T: how much higher the scores are on average than those of the labels."""
        mean = ((z * inverse).softmax(dim=-1) * z).sum(dim=-1)
        return float((mean - wanted).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return Calibration(temperature=1 / low)


def contextual(scores: Tensor) -> Calibration:
    r"""Offsets with which content-free inputs favour no class (Zhao et al. 2021, https://arxiv.org/abs/2102.09690,
    section 5).

    .. math:: q \propto p / \bar p_{cf}

    with the mean probabilities of inputs that say nothing, such as "N/A", "[MASK]" and the empty text.

    Args:
        scores: of the content-free inputs, ``[inputs, classes]``.

    Raises:
        DataError: there is no input, or a score is no number.
    """
    z, _ = _checked(scores, torch.zeros(len(scores), dtype=torch.long))
    mean = z.softmax(dim=-1).mean(dim=0)
    return Calibration(offsets=tuple((-mean.log()).tolist()))


def loss(probabilities: Tensor, labels: Tensor | Sequence[int]) -> float:
    """The mean negative log-probability of the labels."""
    y = torch.as_tensor(labels)
    return float(F.nll_loss(probabilities.log(), y))


def _checked(scores: Tensor, labels: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    z, y = scores.double(), torch.as_tensor(labels, device=scores.device).long()
    if z.dim() != 2 or len(z) != len(y) or not len(z) or z.shape[1] < 2:
        found = f"found {list(z.shape)} and {len(y)}"
        raise DataError(f"calibration: expected scores [examples, classes] and a label for each, {found}; pass both")
    if not bool(torch.isfinite(z).all()):
        raise DataError("calibration: expected finite scores, found others; leave out classes that can not be")
    if bool((y < 0).any()) or bool((y >= z.shape[1]).any()):
        raise DataError(f"calibration: expected labels from 0 to {z.shape[1] - 1}, found others; number the classes")
    return z, y
