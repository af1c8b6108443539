"""A training step rehearsed: the code that trains runs on tensors without data, and what it takes is noted.

So nothing is estimated that could be counted: whatever a method, a model or the training path keeps or makes on its way
shows here, and a new method needs no formula of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from deltatune.attachment.bank import find_bank
from deltatune.attachment.stacks import in_mode
from deltatune.errors import DeltaError
from deltatune.packing.packed import IGNORE, pack
from deltatune.packing.path import why_not
from deltatune.packing.settings import Packing
from deltatune.planning.attention import fused_attention
from deltatune.planning.data_free import AnsweringYes
from deltatune.planning.timeline import Block, Timeline
from deltatune.train.hooks import prepare
from deltatune.train.kept import layers_of
from deltatune.train.memory_budget import checkpointing
from deltatune.train.savings import Savings

__all__ = ["Batch", "Rehearsal", "rehearse"]

META = torch.device("meta")


@dataclass(frozen=True)
class Batch:
    """What a step is made on: ``tokens`` in texts of ``length``, the last one of what is left."""

    tokens: int
    length: int
    shared: int = 0
    """How many tokens all texts begin with alike."""
    learned: float = 0.5
    """The share of a text, at its end, that has labels; for an encoder-decoder, how long the answer is beside it."""

    @property
    def lengths(self) -> list[int]:
        """Of each text."""
        whole, rest = divmod(self.tokens, self.length)
        return [self.length] * whole + [rest] * bool(rest)

    @property
    def rows(self) -> int:
        """How many texts there are, where they are padded to one length."""
        return len(self.lengths)


@dataclass(frozen=True)
class Rehearsal:
    """What a step takes beside weights and the optimiser's state, at the moment when it is most. In bytes."""

    gradients: int
    activations: int
    """Kept by the forward pass and not used up yet."""
    temporary: int
    """Whatever else is there at that moment."""
    kept: int
    """What the forward pass keeps, all of it: the activations when the backward pass begins."""
    blocks: tuple[Block, ...]
    """What was there at that moment, the largest first."""
    preparation: int = 0
    """The most that a method takes which looks at the data before the first step."""
    operations: int = 0
    """Floating-point operations of matrix products and attention; a product and a sum are two."""


def rehearse(
    model: nn.Module,
    batch: Batch,
    *,
    device: str = "cuda",
    savings: bool = True,
    checkpoints: int | None = 0,
    accumulates: bool = False,
) -> Rehearsal:
    """Rehearse the forward and the backward pass of a model on the meta device.

    Args:
        model: as it will train: what is to be trained requires gradients. Left as it was.
        batch: what on. A language model learns the tokens, any other model one class for each text.
        device: the kind that is to run it, whose kernels differ. Default: a GPU.
        savings: as ``dt.Trainer`` trains: no padding, logits of learned tokens alone, less kept. Else the model's own
            loss over padded rows. Default: true.
        checkpoints: how many layers, from the lowest on, run again in backward and keep their input alone;
            ``None``: all. Default: 0.
        accumulates: add to the gradients of an earlier batch. Default: false.

    Raises:
        DeltaError: the model does something on its way that can not be done without data.
    """
    try:
        return _rehearsed(model, batch, device, savings=savings, checkpoints=checkpoints, accumulates=accumulates)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, DeltaError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise DeltaError(
            f"plan: {type(model).__name__} can not be rehearsed without data ({reason}); measure a step instead"
        ) from error


def _rehearsed(
    model: nn.Module, batch: Batch, device: str, *, savings: bool, checkpoints: int | None, accumulates: bool
) -> Rehearsal:
    chosen = _savings(model) if savings else Savings(lean=False)
    inputs = _inputs(model, batch, is_packed=chosen.packing is not None)
    with in_mode(model, training=True), chosen.on(model), fused_attention(device) as attention, AnsweringYes():
        with checkpointing(model, list(layers_of(model))[:checkpoints]):
            with _timeline(model) as before:
                if find_bank(model) is not None:
                    prepare(model, [inputs])
            if accumulates:
                model(**inputs).loss.backward()
            attention.operations = 0
            with _timeline(model) as timeline:
                loss = model(**inputs).loss
                forward = timeline.now
                loss.backward()
        del loss
    found = _rehearsal(model, timeline, forward)
    return replace(found, preparation=before.most(), operations=timeline.operations + attention.operations)


def _timeline(model: nn.Module) -> Timeline:
    gradients = (each.grad for each in model.parameters() if each.grad is not None)
    return Timeline([*model.parameters(), *model.buffers(), *gradients])


def _savings(model: nn.Module) -> Savings:
    """What ``dt.Trainer`` would find by trying, told by what the model is."""
    if why_not(model, tried=False) is None:
        return Savings(packing=Packing())
    return Savings(offset=_offset(model))


def _offset(model: nn.Module) -> int | None:
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return None
    return int(not (model.config.is_encoder_decoder or type(model).__name__.endswith("ForMaskedLM")))  # type: ignore[union-attr]


def _inputs(model: nn.Module, batch: Batch, *, is_packed: bool) -> dict[str, Any]:
    """The arguments of the model's forward pass."""
    if is_packed:
        return {"packed": pack([_text(number, length, batch) for number, length in enumerate(batch.lengths)]).to(META)}
    shape = (batch.rows, batch.length)
    if model.get_output_embeddings() is None:  # type: ignore[operator]
        labels = torch.zeros(batch.rows, dtype=torch.long, device=META)
    else:
        labels = torch.zeros(batch.rows, _labelled(model, batch), dtype=torch.long, device=META)
    return {"input_ids": torch.ones(shape, dtype=torch.long, device=META), "labels": labels}


def _text(number: int, length: int, batch: Batch) -> dict[str, list[int]]:
    shared = min(batch.shared, length)
    learned = max(1, round(batch.learned * length))
    ids = [0] * shared + [number + 1] * (length - shared)
    return {"input_ids": ids, "labels": [IGNORE] * (length - learned) + ids[length - learned :]}


def _labelled(model: nn.Module, batch: Batch) -> int:
    """How many labels a padded row has."""
    is_apart = model.config.is_encoder_decoder  # type: ignore[union-attr]
    return max(1, round(batch.learned * batch.length)) if is_apart else batch.length


def _rehearsal(model: nn.Module, timeline: Timeline, forward: int) -> Rehearsal:
    """What a timeline shows of a step whose forward pass ended with its operation number ``forward``."""
    gradients = {each.grad: timeline.block_of(each.grad) for each in model.parameters() if each.grad is not None}
    from_before = sum(gradient.nbytes for gradient, block in gradients.items() if block is None)
    model.zero_grad()
    live, own = timeline.live(timeline.peak()), set(gradients.values())
    kinds: dict[str, int] = Counter(gradients=from_before)
    for block in live:
        kind = "gradients" if block in own else "activations" if block.outlives(forward) else "temporary"
        kinds[kind] += block.nbytes
    return Rehearsal(
        gradients=kinds["gradients"],
        activations=kinds["activations"],
        temporary=kinds["temporary"],
        kept=sum(block.nbytes for block in timeline.blocks if block.outlives(forward)),
        blocks=tuple(sorted(live, key=lambda block: -block.nbytes)),
    )
