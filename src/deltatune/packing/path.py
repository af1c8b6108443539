"""How a causal language model runs over a packed batch: its layers over each row once, its head over targets alone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from deltatune.attachment.attention import PACKED, attention_sites
from deltatune.attachment.shards import is_sharded
from deltatune.attachment.sites import Site
from deltatune.attachment.stacks import Stacks, evaluating, listening, stacks_of, takes_positions
from deltatune.errors import SiteError
from deltatune.packing.loss import target_scores, token_losses, total_loss
from deltatune.packing.packed import Packed, pack

__all__ = ["PackedModel", "logits_of", "standing_in", "vocabulary_of", "why_not"]


class PackedModel:
    """A causal language model as packed batches see it.

    Args:
        model: the model, with whatever is attached.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.stack = _decoder(stacks_of(model)).module
        self.attention = [site.module for site in attention_sites(model)]

    @property
    def vocabulary(self) -> int:
        """How many logits there are."""
        return vocabulary_of(self.model)

    def hidden(self, batch: Packed) -> Tensor:
        """What the head reads of each row, ``[rows, d]``. Within :meth:`listening` only."""
        nowhere = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=batch.input_ids.device)  # fails where it is used
        out = self.stack(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=nowhere,
            use_cache=False,
            **{PACKED: batch.layout},
        )
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    def head(self, hidden: Tensor) -> Tensor:
        """The logits of hidden states, as the model itself makes them."""
        return logits_of(self.model, hidden)

    def loss(self, batch: Packed, *, smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
        """The sum of the losses of all targets; see :func:`deltatune.packing.loss.total_loss`."""
        hidden = self.hidden(batch).index_select(0, batch.predicting)
        return total_loss(
            self.head,
            hidden,
            batch.labels,
            weights=batch.weights,
            smoothing=smoothing,
            z_loss=z_loss,
            trained=[parameter for parameter in self.model.parameters() if parameter.requires_grad],
            vocabulary=self.vocabulary,
            at_once=is_sharded(self.model),  # a backward pass of a part would end what FSDP2 takes for the whole pass
        )

    @torch.no_grad()
    def losses(self, batch: Packed) -> Tensor:
        """The cross entropy of each target, ``[n]``."""
        hidden = self.hidden(batch).index_select(0, batch.predicting)
        return token_losses(self.head, hidden, batch.labels, vocabulary=self.vocabulary)

    @torch.no_grad()
    def scores(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """The cross entropy of each target and whether it is the likeliest token, both ``[n]``."""
        return target_scores(self.head, self.hidden(batch), batch.predicting, batch.labels, vocabulary=self.vocabulary)

    def listening(self) -> contextlib.AbstractContextManager[None]:
        """Within this context the model's attention takes packed batches."""
        return listening(self.model, self.attention)

    @contextlib.contextmanager
    def taking_packed(self, **settings: float) -> Iterator[None]:
        """Within this context ``model(packed=batch)`` answers with the batch's loss; every other call is as it was.

        The call goes through the model's own ``forward``, so whatever wraps the model sees it. With
        ``num_items_in_batch`` the loss is divided by that, else by the targets of the batch.

        Args:
            **settings: of :meth:`loss`.
        """
        with self.listening(), standing_in(self.model, _Forward(self, settings)):
            yield


def vocabulary_of(model: nn.Module) -> int:
    """How many logits a language model has."""
    return int(model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]


def logits_of(model: nn.Module, hidden: Tensor) -> Tensor:
    """The logits of what the output head reads, as the model itself makes them."""
    logits: Tensor = model.get_output_embeddings()(hidden)  # type: ignore[operator]
    config: Any = model.config
    if getattr(config, "logits_scaling", None):
        logits = logits / config.logits_scaling
    if getattr(config, "logit_scale", None):
        logits = logits * config.logit_scale
    if getattr(config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


@contextlib.contextmanager
def standing_in(model: nn.Module, forward: Any) -> Iterator[None]:
    """Within this context ``forward`` stands in for that of ``model``."""
    former = vars(model).get("forward")
    model.forward = forward
    try:
        yield
    finally:
        if vars(model)["forward"] is forward:  # else a wrapper has been put over it, which needs it
            del model.forward
            if former is not None:
                model.forward = former


class _Forward:
    """A model's ``forward`` that takes packed batches too. No closure, so that a copy of the model has its own."""

    def __init__(self, packed_model: PackedModel, settings: dict[str, float]) -> None:
        self.packed_model, self.settings = packed_model, settings
        self.own = packed_model.model.forward
        functools.update_wrapper(self, self.own)  # for those who ask for the signature

    def __call__(self, *args: Any, packed: Packed | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return self.own(*args, **kwargs)
        loss = self.packed_model.loss(packed, **self.settings)
        count = kwargs.get("num_items_in_batch")
        return CausalLMOutput(loss=loss / (packed.total_weight if count is None else count))


def why_not(model: nn.Module, *, tried: bool = True) -> str | None:
    """Why packed batches can not run on a model, or ``None`` if they can.

    Args:
        model: the model, with whatever is attached.
        tried: run two short texts packed and alone as well: what a model does between tokens outside of attention, or
            another way from hidden states to logits, shows as a difference. Default: true.
    """
    kind = type(model).__name__
    try:
        packed_model = PackedModel(model)
    except SiteError as error:
        return str(error)
    config: Any = packed_model.stack.config
    if model.get_output_embeddings() is None:  # type: ignore[operator]
        return f"{kind} has no head of a language model"
    if not takes_positions(packed_model.stack):
        return f"{kind} counts positions by itself"
    if len(packed_model.attention) != getattr(config, "num_hidden_layers", None):
        return f"{kind} has layers without attention"
    if getattr(config, "output_router_logits", False):
        return f"{kind} has a loss of its routers"
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return f"{kind} attends in chunks, which its mask alone knows"
    if getattr(config, "attn_temperature_tuning", False):
        return f"{kind} scales queries by where they stand in the batch"
    return _difference(packed_model) if tried else None


@torch.no_grad()
def _difference(packed_model: PackedModel) -> str | None:
    """How a model's answers to packed texts differ from those to the same texts alone."""
    model, device = packed_model.model, next(packed_model.model.parameters()).device
    texts = [[token % packed_model.vocabulary for token in text] for text in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [7, 8])]
    batch = pack([{"input_ids": text, "labels": text} for text in texts], least=1).to(device)
    try:
        with evaluating(model), packed_model.listening():
            alone = torch.cat([_losses(model, torch.tensor([text], device=device)) for text in texts])
            packed = packed_model.losses(batch)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        return f"{type(model).__name__}: {' '.join(str(error).split())}"
    near = 1e-3 if next(model.parameters()).dtype.itemsize >= 4 else 5e-2
    if not torch.allclose(packed.float(), alone.float(), rtol=near, atol=near):
        return f"{type(model).__name__} answers otherwise, so its tokens meet outside of attention"
    return None


def _losses(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[0]
    return nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")


def _decoder(stacks: Stacks) -> Site:
    if stacks.decoder is None or stacks.encoder is not None:
        raise SiteError("expected a causal language model, found an encoder")
    return stacks.decoder
