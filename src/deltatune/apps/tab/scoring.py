r"""Class probabilities of rows from how likely a language model finds the answers.

.. math:: p(c \mid x) \propto \exp \frac{1}{|a_c|} \sum_t \log P(a_{c,t} \mid \mathrm{prompt}(x), a_{c,<t})

(Hegselmann et al. 2023, https://arxiv.org/abs/2210.10723). The mean, so that a longer answer is not punished for its
length. What prompts, and the answers of one, begin with alike runs once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import deltatune as dt
from deltatune.apps.tab.likelihood import learned, likelihood
from deltatune.apps.tab.loss import tfew_loss
from deltatune.apps.tab.task import Task
from deltatune.apps.tab.training import RowsLoss
from deltatune.io.bases import Base
from deltatune.packing.padded import Pair

__all__ = ["AnswerScorer", "class_scores"]


def class_scores(
    base: Base, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, max_tokens: int = 4096
) -> Tensor:
    """The mean log-likelihood of each answer behind each prompt, ``[prompts, answers]``, in float64.

    Args:
        base: the language model.
        prompts: their tokens.
        answers: their tokens, the same for all prompts.
        max_tokens: of one batch, after sharing. Default: 4,096.
    """
    found = dt.score_answers(base.model, prompts, [answers] * len(prompts), max_tokens=max_tokens)
    return torch.tensor([[score.mean for score in each] for each in found], dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class AnswerScorer:
    """Classes by the likelihood of their answers.

    Args:
        base: the language model.
        task: what it is asked.
    """

    base: Base
    task: Task

    @property
    def frame(self) -> int:
        """How many tokens are read beside those of a row's text."""
        return len(self.task.prompts(self.base, [""])[0]) + max(map(len, self.task.answer_tokens(self.base)))

    def scores(self, texts: Sequence[str]) -> Tensor:
        """The score of each class for each row, ``[rows, classes]``."""
        return class_scores(self.base, self.task.prompts(self.base, texts), self.task.answer_tokens(self.base))

    @contextlib.contextmanager
    def losses(self, texts: Sequence[str], codes: Sequence[int]) -> Iterator[RowsLoss]:
        """Within this context: T-Few's loss of some of the rows, all answers of a row in one batch.

        Args:
            texts: of the rows.
            codes: the number of each row's class.
        """
        prompts, answers = self.task.prompts(self.base, texts), self.task.answer_tokens(self.base)
        device = next(self.base.model.parameters()).device

        with likelihood(self.base.model) as likely:

            def loss(rows: Sequence[int]) -> Tensor:
                pairs = [Pair(row, prompts[row], answer) for row in rows for answer in answers]
                right = torch.tensor([codes[row] for row in rows], device=device)
                return tfew_loss(*likely(pairs), right, len(answers))

            yield loss

    def examples(self, texts: Sequence[str], codes: Sequence[int]) -> Iterator[Mapping[str, Any]]:
        """Rows with their right answers as the model's forward pass takes them, one at a time."""
        prompts, answers = self.task.prompts(self.base, texts), self.task.answer_tokens(self.base)
        for row, (prompt, code) in enumerate(zip(prompts, codes, strict=True)):
            yield learned(self.base.model, [Pair(row, prompt, answers[code])])
