r"""The loss of T-Few (Liu et al. 2022, https://arxiv.org/abs/2205.05638, section 3.2), with which TabLLM is trained.

.. math:: L = L_{LM} + L_{LN} + L_{UL}

of rows with a right answer :math:`y` among several. The tokens of an answer :math:`a` have the probabilities
:math:`p_{a,t}`, and it has the mean log-likelihood :math:`\beta_a = \frac{1}{|a|} \sum_t \log p_{a,t}`.

- Language modelling, the mean over the :math:`T` tokens of all right answers:
  :math:`L_{LM} = -\frac{1}{T} \sum_{t} \log p_{y,t}`
- Choice, the mean over rows: :math:`L_{LN} = -\log \frac{\exp \beta_y}{\sum_a \exp \beta_a}`
- Unlikelihood, the mean over the :math:`U` tokens of all wrong answers:
  :math:`L_{UL} = -\frac{1}{U} \sum_{a \ne y} \sum_t \log(1 - p_{a,t} + \epsilon)`

The paper has no ε; its program has 0.01, which bounds the loss where a wrong token is certain. Here it is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["choice_loss", "language_loss", "means", "tfew_loss", "unlikelihood_loss"]

EPSILON = 1e-2


def tfew_loss(tokens: Tensor, of: Tensor, right: Tensor, classes: int) -> Tensor:
    """The sum of the three losses, a scalar.

    Args:
        tokens: the log-probability of each token of all answers, ``[n]``.
        of: the answer that each is of, ``[n]``. Row r's answer for class c has the number ``r * classes + c``.
        right: the class of each row, ``[rows]``.
        classes: how many answers a row has.
    """
    answers = torch.arange(len(right), device=right.device) * classes + right
    is_right = torch.isin(of, answers)
    scores = means(tokens, of, len(right) * classes).view(len(right), classes)
    return language_loss(tokens[is_right]) + choice_loss(scores, right) + unlikelihood_loss(tokens[~is_right])


def means(tokens: Tensor, of: Tensor, answers: int) -> Tensor:
    """The mean log-likelihood of each answer, ``[answers]``.

    Args:
        tokens: the log-probability of each token, ``[n]``.
        of: the answer that each is of, ``[n]``.
        answers: how many there are; each has a token.
    """
    return tokens.new_zeros(answers).index_add(0, of, tokens) / torch.bincount(of, minlength=answers)


def language_loss(right: Tensor) -> Tensor:
    """The mean negative log-likelihood of the tokens of right answers, whose log-probabilities are given."""
    return -right.mean()


def choice_loss(scores: Tensor, right: Tensor) -> Tensor:
    """The cross entropy of the right class, ``[rows]``, by the scores of all, ``[rows, classes]``."""
    return F.cross_entropy(scores, right)


def unlikelihood_loss(wrong: Tensor) -> Tensor:
    """How likely the tokens of wrong answers are, whose log-probabilities are given."""
    return -torch.log(EPSILON - torch.expm1(wrong)).mean()
