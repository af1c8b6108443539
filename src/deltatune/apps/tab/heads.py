"""An encoder with a classification head, as a scikit-learn classifier of rows as text.

The pretrained encoder is frozen; a delta and the new head are trained together by cross-entropy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deltatune.apps.tab.estimator import Calibrating, RowClassifier
from deltatune.apps.tab.serialize import Serializer
from deltatune.apps.tab.shared import shared_base
from deltatune.apps.tab.training import RowsLoss
from deltatune.attachment.stacks import evaluating
from deltatune.io.bases import Base, Dtype
from deltatune.methods.base import Method
from deltatune.train.collate import Collator

__all__ = ["EncoderClassifier", "HeadScorer"]

BATCH_TOKENS = 4096
"""Of all texts that are read at once, padding included."""


@dataclass(frozen=True, slots=True)
class HeadScorer:
    """Classes by the logits of a head.

    Args:
        base: the encoder with a head.
    """

    base: Base

    @property
    def frame(self) -> int:
        """How many tokens are read beside those of a row's text."""
        return self.base.tokenizer.num_special_tokens_to_add()

    def scores(self, texts: Sequence[str]) -> Tensor:
        """The logit of each class for each row, ``[rows, classes]``, in float64."""
        encoded = self._encoded(texts)
        found: dict[int, Tensor] = {}
        with torch.no_grad(), evaluating(self.base.model):
            for rows in _batches([len(each["input_ids"]) for each in encoded]):
                found.update(zip(rows, self._logits([encoded[row] for row in rows]).cpu().double(), strict=True))
        return torch.stack([found[row] for row in range(len(texts))])

    @contextlib.contextmanager
    def losses(self, texts: Sequence[str], codes: Sequence[int]) -> Iterator[RowsLoss]:
        """Within this context: the mean cross entropy of some of the rows.

        Args:
            texts: of the rows.
            codes: the number of each row's class.
        """
        encoded = self._encoded(texts)

        def loss(rows: Sequence[int]) -> Tensor:
            logits = self._logits([encoded[row] for row in rows])
            return F.cross_entropy(logits, torch.tensor([codes[row] for row in rows], device=logits.device))

        yield loss

    def examples(self, texts: Sequence[str], codes: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Rows with their classes as the model's forward pass takes them, one at a time."""
        for each, code in zip(self._encoded(texts), codes, strict=True):
            yield self._batch([{**each, "labels": code}])

    def _encoded(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        names = {"input_ids", "token_type_ids"}
        made = self.base.tokenizer(list(texts), verbose=False)
        columns = {name: column for name, column in made.items() if name in names}
        return [{name: column[row] for name, column in columns.items()} for row in range(len(texts))]

    def _logits(self, examples: Sequence[Mapping[str, Any]]) -> Tensor:
        return self.base.model(**self._batch(examples)).logits.float()  # type: ignore[no-any-return]

    def _batch(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        batch = Collator.of(self.base.tokenizer)(examples)
        return {name: tensor.to(self.base.model.device) for name, tensor in batch.items()}


class EncoderClassifier(RowClassifier):
    """An encoder that reads a row as text, with a head that chooses its class.

    The head starts at random, so without shots (`steps=0`) its classes mean nothing. Fitted ones are written by
    :meth:`save`, never pickled.

    Args:
        base: the encoder, as `dt.load_base` takes it; loaded once for all classifiers with the same one. Default:
            "minilm".
        method: what is trained beside the head. Default: LoRA of rank 8 on all linear layers.
        serializer: how a row becomes text. Default: `Serializer()`.
        steps: of training. Default: each shot 30 times.
        learning_rate: the highest. Default: 1e-3.
        batch_size: shots a step. Default: 4.
        calibrate: as for `TabLLMClassifier`. Default: ``None``.
        max_tokens: of a row; columns that tell least of the classes are left out beyond. Default: 1,024, or what the
            encoder reads.
        random_state: of what starts at random, the head aside, and the order of shots. Default: 0.
        device: as `dt.load_base` takes it. Default: the GPU if there is one.
        dtype: as there. Default: as stored.

    Attributes:
        classes_: the classes, sorted.
        serializer_: how rows become text, with what was inferred of the columns.
        delta_: what was trained, the head with it.
        losses_: the loss of each step.
        calibration_: the map from scores to probabilities; ``None`` for none.
        n_features_in_: how many columns there are.
        feature_names_in_: their names, if all are strings.
    """

    def __init__(
        self,
        base: str = "minilm",
        method: Method | None = None,
        serializer: Serializer | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 4,
        calibrate: Calibrating | None = None,
        max_tokens: int = 1024,
        random_state: Any = 0,
        device: str | None = None,
        dtype: Dtype = "auto",
    ) -> None:
        self.base = base
        self.method = method
        self.serializer = serializer
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.calibrate = calibrate
        self.max_tokens = max_tokens
        self.random_state = random_state
        self.device = device
        self.dtype = dtype

    def _begin(self, target: str | None) -> None:
        self._open()

    def _open(self) -> None:
        task, classes = "sequence-classification", len(self.classes_)
        self._shared = shared_base(self.base, task=task, dtype=self.dtype, device=self.device, classes=classes)

    def _scorer(self) -> HeadScorer:
        return HeadScorer(self._shared.base)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Texts by number, longest first, as many at a time as have few enough tokens with their padding."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        fit = max(1, BATCH_TOKENS // lengths[order[0]])
        yield order[:fit]
        del order[:fit]
