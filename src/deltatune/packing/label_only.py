"""The loss of padded batches without the logits of tokens that are not learned.

For language models that packed batches can not run on: encoder-decoders, masked language models, decoders whose tokens
meet outside of attention. The model runs as it is up to its output head; what the head would read is taken there, and
only that of learned tokens goes through it, some at a time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from deltatune.attachment.shards import is_sharded
from deltatune.attachment.stacks import evaluating
from deltatune.packing.loss import total_loss
from deltatune.packing.packed import IGNORE
from deltatune.packing.path import logits_of, standing_in, vocabulary_of

__all__ = ["LabelOnly", "offset_of"]


Run = Callable[..., Any]


class LabelOnly:
    """A language model as batches with labels see it.

    Args:
        model: the model, with whatever is attached.
        offset: how many tokens before a label stands the one that predicts it; see :func:`offset_of`.
    """

    def __init__(self, model: nn.Module, offset: int) -> None:
        self.model, self.offset = model, offset

    def loss(
        self, labels: Tensor, *args: Any, run: Run, smoothing: float = 0.0, z_loss: float = 0.0, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The sum of the losses of all learned tokens, and how many these are.

        Args:
            labels: ``[batch, tokens]``, -100 where not learned.
            *args: of the model's forward pass.
            run: the model's own forward.
            smoothing: as for :func:`deltatune.packing.loss.total_loss`.
            z_loss: as there.
            **kwargs: of the model's forward pass.
        """
        model: Any = self.model
        if model.config.is_encoder_decoder and not {"decoder_input_ids", "decoder_inputs_embeds"} & kwargs.keys():
            kwargs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels)
        hidden = self._hidden(functools.partial(run, *args, **kwargs))
        hidden = hidden[:, hidden.shape[1] - labels.shape[1] :]  # of what the labels are for, should rows stand before
        targets = labels[:, self.offset :]
        learned = targets != IGNORE
        total = total_loss(
            functools.partial(logits_of, self.model),
            hidden[:, : targets.shape[1]][learned],
            targets[learned],
            smoothing=smoothing,
            z_loss=z_loss,
            trained=[parameter for parameter in self.model.parameters() if parameter.requires_grad],
            vocabulary=vocabulary_of(self.model),
            at_once=is_sharded(self.model),
        )
        return total, learned.sum()

    def _hidden(self, run: Run) -> Tensor:
        """What the head would read, ``[batch, tokens, d]``."""
        read: list[Tensor] = []

        def take(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            read.append(args[0])
            return (args[0][:, :0],)

        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[operator]
        handle = head.register_forward_pre_hook(take, prepend=True)
        try:
            run()
        finally:
            handle.remove()
        (hidden,) = read
        return hidden

    @contextlib.contextmanager
    def instead(self, **settings: float) -> Iterator[None]:
        """Within this context ``model(labels=...)`` in training answers with the loss alone.

        Every other call is as it was; evaluation reads logits. With ``num_items_in_batch`` the loss is divided by that,
        else by the learned tokens of the batch.

        Args:
            **settings: ``smoothing`` and ``z_loss``, as for :meth:`loss`.
        """
        with standing_in(self.model, _Forward(self, settings)):
            yield


class _Forward:
    """A model's ``forward`` that makes the loss. No closure, so that a copy of the model has its own."""

    def __init__(self, label_only: LabelOnly, settings: dict[str, float]) -> None:
        self.label_only, self.settings = label_only, settings
        self.own = label_only.model.forward
        functools.update_wrapper(self, self.own)  # for those who ask for the signature

    def __call__(self, *args: Any, labels: Tensor | None = None, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
        if labels is None or not self.label_only.model.training:
            given = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            return self.own(*args, **kwargs, **{name: value for name, value in given.items() if value is not None})
        total, learned = self.label_only.loss(labels, *args, run=self.own, **self.settings, **kwargs)
        return CausalLMOutput(loss=total / (learned if num_items_in_batch is None else num_items_in_batch))


@torch.no_grad()
def offset_of(model: nn.Module) -> int | None:
    """How many tokens before a label the model predicts it, found by trying; ``None`` if its loss is another one.

    Args:
        model: the model, with whatever is attached.
    """
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return None
    if getattr(
        getattr(model, "config", None), "output_router_logits", False
    ):  # its loss has a small part of the routers'
        return None
    device = next(model.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], device=device) % vocabulary_of(model)
    labels = torch.tensor([[IGNORE, 2, 3, IGNORE, 5], [IGNORE, IGNORE, 8, 9, IGNORE]], device=device)
    labels = torch.where(labels == IGNORE, IGNORE, labels % vocabulary_of(model))
    near = 1e-4 if next(model.parameters()).dtype.itemsize >= 4 else 2e-2
    misfits = []
    with evaluating(model):
        for offset in (0, 1):
            try:
                expected = float(model(input_ids=ids, labels=labels).loss)
                total, learned = LabelOnly(model, offset).loss(labels, input_ids=ids, run=model.forward)
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
                return None
            misfits.append(abs(float(total / learned) - expected) / max(abs(expected), 1e-6))
    best, other = sorted(misfits)
    # A model that knows nothing yet is as bad at both: where rounding could confuse them, the loss stays its own.
    return misfits.index(best) if best <= near < other else None
