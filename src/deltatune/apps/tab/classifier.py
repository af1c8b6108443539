"""TabLLM as a scikit-learn classifier (Hegselmann et al. 2023, https://arxiv.org/abs/2210.10723)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deltatune.apps.tab.estimator import Calibrating, RowClassifier
from deltatune.apps.tab.scoring import AnswerScorer
from deltatune.apps.tab.serialize import Serializer
from deltatune.apps.tab.shared import shared_base
from deltatune.apps.tab.task import Order, Task
from deltatune.errors import DataError
from deltatune.io.bases import Dtype
from deltatune.methods.base import Method

__all__ = ["TabLLMClassifier"]


class TabLLMClassifier(RowClassifier):
    """A language model that reads a row as text and is asked for its class.

    The probability of a class follows from the likelihood of its answer, so the model works before it has seen one row
    (`steps=0`); on a few shots it trains a delta. Fitted ones are written by :meth:`save`, never pickled.

    Args:
        base: the language model, as `dt.load_base` takes it; loaded once for all classifiers with the same one.
            Default: "smollm2".
        method: what is trained. Default: LoRA of rank 8 on all linear layers.
        serializer: how a row becomes text. Default: `Serializer()`.
        question: what is asked about a row. Default: which of the answers the column of `y` is.
        answers: what is said for each class; classes that `y` lacks may be among them. Default: the classes' names.
        steps: of training; 0 for none. Default: each shot 30 times, as in the paper.
        learning_rate: the highest. Default: 1e-3.
        batch_size: shots a step. Default: 4.
        calibrate: "temperature" holds back a quarter of the shots, of which there have to be eight a class;
            "contextual" makes rows that say nothing favour no class; "auto" takes the first where there are shots
            enough, else the second. With two classes neither changes how rows are ranked, and so no AUC; and shots are
            scarce. Default: ``None``, the scores as they are.
        max_tokens: of a row with the question; columns that tell least of the classes are left out beyond. Default:
            1,024, or what the model reads.
        random_state: of what starts at random, and the order of shots. Default: 0.
        device: as `dt.load_base` takes it. Default: the GPU if there is one.
        dtype: as there. Default: as stored.
        order: "row-first" as in the paper, or "question-first", which lets all rows share the question too.

    Attributes:
        classes_: the classes, sorted.
        task_: what is asked.
        serializer_: how rows become text, with what was inferred of the columns.
        delta_: what was trained; ``None`` after `steps=0`.
        losses_: the loss of each step.
        calibration_: the map from scores to probabilities; ``None`` for none.
        n_features_in_: how many columns there are.
        feature_names_in_: their names, if all are strings.
    """

    task_: Task

    def __init__(
        self,
        base: str = "smollm2",
        method: Method | None = None,
        serializer: Serializer | None = None,
        question: str | None = None,
        answers: Mapping[Any, str] | None = None,
        steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 4,
        calibrate: Calibrating | None = None,
        max_tokens: int = 1024,
        random_state: Any = 0,
        device: str | None = None,
        dtype: Dtype = "auto",
        order: Order = "row-first",
    ) -> None:
        self.base = base
        self.method = method
        self.serializer = serializer
        self.question = question
        self.answers = answers
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.calibrate = calibrate
        self.max_tokens = max_tokens
        self.random_state = random_state
        self.device = device
        self.dtype = dtype
        self.order = order

    def _labels(self, y: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if self.answers is None:
            return super()._labels(y)
        classes = np.unique(np.asarray(list(self.answers)))
        if y is None and self.steps == 0:
            return classes, np.zeros(0, dtype=np.intp)
        found, codes = super()._labels(y)
        if unknown := [label for label in found.tolist() if label not in self.answers]:
            raise DataError(f"answers: expected one for each class, found none for {unknown[0]!r}; add it")
        classes = classes.astype(object) if found.dtype == object else classes
        return classes, np.searchsorted(classes, found)[codes]

    def task(self, labels: Sequence[Any], target: str | None) -> Task:
        """What is asked about a row; see `RowClassifier.task`."""
        answers = self.answers or {label: _said(label) for label in labels}
        said = {label: answers[label] for label in labels}
        return Task(self.question or _question(target, [*said.values()]), said, self.order)

    def _begin(self, target: str | None) -> None:
        self.task_ = self.task(self.classes_.tolist(), target)
        self._open()

    def _open(self) -> None:
        self._shared = shared_base(self.base, dtype=self.dtype, device=self.device)

    def _scorer(self) -> AnswerScorer:
        return AnswerScorer(self._shared.base, self.task_)


def _said(label: Hashable) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)


def _question(target: str | None, answers: Sequence[str]) -> str:
    what = "class" if target is None else target.replace("_", " ").strip()
    return f"What is the {what}: {', '.join(answers[:-1])} or {answers[-1]}?"
