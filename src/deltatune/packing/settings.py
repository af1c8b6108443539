"""How a trainer makes its batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deltatune.errors import ConfigError
from deltatune.packing.packed import SHARED, pack
from deltatune.packing.sampler import Batches

__all__ = ["Packing"]


@dataclass(frozen=True)
class Packing:
    """Batches without padding, in which what examples share runs once.

    The loss and the gradients are those of the same examples padded, but for the dropout of shared tokens: that is
    drawn once, not for each example.

    Args:
        max_tokens: how many tokens a batch may have on each device, in place of a number of examples; what is shared
            counts once. Default: ``None``, the batch size of the training arguments.
        share: run what examples begin with alike only once. Default: true.
        group: how far to put examples that begin alike into one batch, from 0, random order, to 1, wherever there are
            any. Faster where there is much to share, but a step then learns from less of a mixture. Default: 0.
        least: how many tokens examples must begin with alike for it to count. Default: 16.
        z_loss: the weight of the squared logarithm of the softmax's denominator in the loss (Chowdhery et al. 2022,
            https://arxiv.org/abs/2204.02311, section 5). Default: 0.

    Raises:
        ConfigError: a value is out of range.
    """

    max_tokens: int | None = None
    share: bool = True
    group: float = 0.0
    least: int = SHARED
    z_loss: float = 0.0

    def __post_init__(self) -> None:
        _check(self.max_tokens is None or self.max_tokens > 0, "max_tokens", "at least 1", self.max_tokens)
        _check(0 <= self.group <= 1, "group", "a share from 0 to 1", self.group)
        _check(self.least > 0, "least", "at least 1", self.least)
        _check(self.z_loss >= 0, "z_loss", "no less than 0", self.z_loss)

    def batches(
        self,
        texts: Sequence[Sequence[int]],
        batch_size: int,
        *,
        processes: int = 1,
        seed: int = 0,
        epoch: Callable[[], int] | None = None,
    ) -> Batches:
        """Which examples go together; the arguments are those of :class:`deltatune.packing.sampler.Batches`.

        Raises:
            DataError: an example has more than ``max_tokens`` tokens.
        """
        return Batches(
            texts,
            batch_size,
            max_tokens=self.max_tokens,
            group=self.group,
            least=self.least,
            share=self.share,
            processes=processes,
            seed=seed,
            epoch=epoch,
        )

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of examples; fit for a DataLoader's ``collate_fn``.

        Returns:
            ``packed``, the batch, which is all that the model reads; and, for those who count them, its ``input_ids``
            and ``labels``, and an ``attention_mask`` with a 1 for each token of each example.
        """
        packed = pack(examples, share=self.share, least=self.least)
        counted = {"labels": packed.labels, "shift_labels": packed.labels}
        mask = torch.ones(1, dtype=torch.long).expand(packed.tokens)
        return {"packed": packed, "input_ids": packed.input_ids, "attention_mask": mask, **counted}


def _check(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"packing.{name}: expected {expected}, found {found!r}; change it")
