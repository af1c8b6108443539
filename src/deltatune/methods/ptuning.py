r"""P-tuning: a soft prompt made by a small network (Liu et al. 2021, https://arxiv.org/abs/2103.10385, section 3).

.. math:: y = \mathrm{model}([P;\ E(x)]), \qquad P = \mathrm{MLP}(\mathrm{BiLSTM}(E_0))

with E₀ ``[p, d]``, a two-layer bidirectional LSTM of width h and an MLP 2h → 2h → d with ReLU; ``encoder="mlp"`` leaves
the LSTM out: an MLP d → h → h → d with ReLU. Everything is trained; what is saved is P, so the network folds away and a
loaded prompt trains on as a plain one. How P runs is told in :mod:`deltatune.methods.prompt`. It is not the identity at
the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from deltatune.methods.base import check
from deltatune.methods.prompt import PromptTuning
from deltatune.methods.soft_prompt import SoftPrompt

__all__ = ["PTuning"]

Encoder = Literal["mlp", "lstm"]


@dataclass(frozen=True)
class PTuning(PromptTuning):
    """P-tuning. See the module's docstring for the equation and :class:`PromptTuning` for the other settings.

    Args:
        encoder: ``"mlp"`` (default) or ``"lstm"``.
        hidden: the network's width h. Default: 128.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "ptuning"
    peft_type: ClassVar[str] = "P_TUNING"

    encoder: Encoder = "mlp"
    hidden: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.encoder in get_args(Encoder), "ptuning.encoder", f"one of {get_args(Encoder)}", self.encoder)
        check(isinstance(self.hidden, int) and self.hidden >= 1, "ptuning.hidden", "a width from 1", self.hidden)

    def prompt(self, start: Tensor) -> SoftPrompt:
        return EncodedPrompt(start, self.encoder, self.hidden)


class EncodedPrompt(SoftPrompt):
    """P as the output of a network over E₀."""

    def __init__(self, start: Tensor, encoder: Encoder, hidden: int) -> None:
        super().__init__(start)
        width = start.shape[1]
        options: dict[str, Any] = {"dtype": start.dtype, "device": start.device}
        self.lstm: nn.LSTM | None = None
        if encoder == "lstm":
            self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True, **options)
            widths = [2 * hidden, 2 * hidden, width]
        else:
            widths = [width, hidden, hidden, width]
        layers = [nn.Linear(a, b, **options) for a, b in pairwise(widths)]
        self.mlp = nn.Sequential(*(step for layer in layers for step in (layer, nn.ReLU())))[:-1]

    def forward(self) -> Tensor:
        vectors: Tensor = self.vectors
        if self.lstm is not None:
            vectors = self.lstm(vectors[None])[0][0]
        return self.mlp(vectors)  # type: ignore[no-any-return]
