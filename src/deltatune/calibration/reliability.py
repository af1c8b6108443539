r"""How sure a model is, against how often it is right.

Examples are sorted into bins by the probability of the class that is chosen. In a bin of examples that can be believed,
the share that is right is the mean of these probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deltatune.errors import ConfigError

__all__ = ["Bin", "Reliability", "reliability"]

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Examples of about the same confidence."""

    low: float
    high: float
    count: int
    confidence: float
    """The mean probability of the chosen class; the middle of the bin if it is empty."""
    accuracy: float
    """The share that is right; 0 if it is empty."""


@dataclass(frozen=True)
class Reliability:
    """A model's confidence and accuracy, bin by bin."""

    bins: tuple[Bin, ...]

    @property
    def examples(self) -> int:
        """How many there are."""
        return sum(each.count for each in self.bins)

    @property
    def expected_error(self) -> float:
        r"""The expected calibration error: :math:`\sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|`
        (Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 2).
        """
        return sum(each.count * abs(each.accuracy - each.confidence) for each in self.bins) / max(self.examples, 1)

    @property
    def largest_error(self) -> float:
        """The largest difference of a bin that has examples."""
        return max((abs(each.accuracy - each.confidence) for each in self.bins if each.count), default=0.0)


def reliability(probabilities: Tensor, labels: Tensor | Sequence[int], bins: int = BINS) -> Reliability:
    """Sort examples into bins of equal width by their confidence.

    Args:
        probabilities: ``[examples, classes]``, each row adding up to 1.
        labels: the classes, ``[examples]``.
        bins: how many. Default: 15.

    Raises:
        ConfigError: there is to be no bin.
    """
    if bins < 1:
        raise ConfigError(f"bins: expected at least 1, found {bins}; raise it")
    confidence, chosen = probabilities.double().max(dim=-1)
    right = (chosen == torch.as_tensor(labels, device=chosen.device)).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1  # a bin holds its upper end
    sums = torch.zeros(3, bins, dtype=torch.float64, device=confidence.device)
    sums.index_add_(1, place, torch.stack([torch.ones_like(confidence), confidence, right]))
    found = []
    for number, (count, sure, hits) in enumerate(sums.t().tolist()):
        low, high = number / bins, (number + 1) / bins
        middle = (low + high) / 2
        found.append(Bin(low, high, int(count), sure / count if count else middle, hits / count if count else 0.0))
    return Reliability(tuple(found))
