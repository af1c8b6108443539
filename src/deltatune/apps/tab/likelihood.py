"""The log-probabilities of the tokens of answers, with gradients; a prompt runs once for all of its answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.stacks import stacks_of
from deltatune.packing.known import ask
from deltatune.packing.packed import IGNORE
from deltatune.packing.padded import Pair
from deltatune.packing.path import PackedModel, why_not
from deltatune.packing.scoring import pack_pairs
from deltatune.train.collate import Collator

__all__ = ["Likelihood", "learned", "likelihood", "packed", "padded"]

Likelihood = Callable[[Sequence[Pair]], tuple[Tensor, Tensor]]
"""The log-probability of each token of the answers of pairs, ``[n]``, and the number of the pair it is of, ``[n]``."""


@contextlib.contextmanager
def likelihood(model: nn.Module) -> Iterator[Likelihood]:
    """How a model finds the tokens of answers likely: packed where it can be, else padded, with the same results.

    Args:
        model: one that writes, with whatever is attached.
    """
    if ask(why_not, model):
        yield partial(padded, model)
        return
    packed_model = PackedModel(model)
    with packed_model.listening():
        yield partial(packed, packed_model)


def packed(model: PackedModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """One batch whose prompts, and what texts begin with alike, run once. Within ``model.listening()`` only."""
    batch = pack_pairs(pairs).to(next(model.model.parameters()).device)
    rows, of = batch.predicting.unique(return_inverse=True)  # several tokens may be predicted from one row
    logits = model.head(model.hidden(batch).index_select(0, rows))
    return _logarithms(logits)[of, batch.labels], batch.texts


def padded(model: nn.Module, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """One padded batch, each prompt as often as it has answers."""
    batch = learned(model, pairs)
    labels, offset = batch["labels"], 0 if all(stacks_of(model)) else 1
    if offset:
        del batch["labels"]
    logits = model(**batch).logits[:, -labels.shape[1] :]  # a delta may put rows before
    wanted = labels[:, offset:]
    of, at = (wanted != IGNORE).nonzero(as_tuple=True)
    return _logarithms(logits[of, at]).gather(1, wanted[of, at][:, None])[:, 0], of


def learned(model: nn.Module, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Pairs as a padded batch of the model's forward pass, whose labels are the answers."""
    config: Any = model.config
    example = _apart if all(stacks_of(model)) else _joined
    batch = Collator(int(config.pad_token_id or 0))([example(pair) for pair in pairs])
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _apart(pair: Pair) -> Mapping[str, Any]:
    return {"input_ids": pair.prompt, "labels": pair.answer}


def _joined(pair: Pair) -> Mapping[str, Any]:
    return {"input_ids": pair.prompt + pair.answer, "labels": [IGNORE] * len(pair.prompt) + pair.answer}


def _logarithms(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
