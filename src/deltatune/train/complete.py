"""Letting a model write: completions of prompts, in batches, and beside the references of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deltatune.attachment.stacks import evaluating
from deltatune.errors import DataError
from deltatune.packing.prefill import SAVED, begun, saved_tokens, why_no_prefill
from deltatune.train.collate import Collator
from deltatune.train.encode import IGNORE, Encoded, Kind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from deltatune.io.bases import Base

__all__ = ["Prediction", "answers", "chunks", "complete", "decode", "device_of", "ends", "neutral_generation"]


@dataclass(frozen=True)
class Prediction:
    """A completion that the model wrote, or a class that it chose, beside the reference."""

    prompt: str
    reference: str
    prediction: str

    @property
    def exact(self) -> bool:
        """Whether the two agree but for white space around them."""
        return self.prediction.strip() == self.reference.strip()


def complete(
    base: Base, prompts: Sequence[Sequence[int]], *, batch_size: int = 8, max_new_tokens: int = 256, **sampling: Any
) -> Iterator[str]:
    """Let the model go on from prompts, several at once, and yield what it wrote in their order.

    What the prompts of a batch begin with alike runs once where that pays.

    Args:
        base: the model and its tokenizer.
        prompts: token ids.
        batch_size: prompts in a batch. Default: 8.
        max_new_tokens: how many tokens to write at most. Default: 256.
        **sampling: further settings of `transformers`' `generate`. Default: greedy.
    """
    collate = Collator.of(base.tokenizer, side="left" if base.task == "causal-lm" else "right")
    with evaluating(base.model), neutral_generation(base):
        for batch in chunks(list(prompts), batch_size):
            settings = {"do_sample": False, "max_new_tokens": max_new_tokens, **sampling}
            with torch.no_grad(), _begun(base, batch, collate, settings) as inputs:
                written = base.model.generate(**inputs, **settings)  # type: ignore[operator]
            width = inputs["input_ids"].shape[1] if base.task == "causal-lm" else 0
            yield from base.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)


_TAKEN = frozenset(
    {"do_sample", "max_new_tokens", "min_new_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p"}
    | {"repetition_penalty", "num_beams", "num_return_sequences", "length_penalty", "early_stopping", "use_cache"}
    | {"logits_processor", "stopping_criteria"}
)
"""The settings of `generate` beside which it is known to go on from a cache as from a prompt."""


@contextmanager
def _begun(
    base: Base, prompts: Sequence[Sequence[int]], collate: Collator, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """What writing begins with: the prompts, and a cache of them if they share enough for that to pay."""
    copies = max(settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1)
    if _shares(base, prompts, copies, settings):
        with begun(base.model, prompts, copies=copies, pad=base.tokenizer.pad_token_id) as inputs:
            yield inputs
    else:
        padded = collate([{"input_ids": list(prompt)} for prompt in prompts])
        yield {name: tensor.to(device_of(base.model)) for name, tensor in padded.items()}


def _shares(base: Base, prompts: Sequence[Sequence[int]], copies: int, settings: dict[str, Any]) -> bool:
    known = base.task == "causal-lm" and settings.keys() <= _TAKEN and settings.get("use_cache", True)
    return known and saved_tokens(prompts, copies) >= SAVED and why_no_prefill(base.model) is None


@contextmanager
def neutral_generation(base: Base) -> Iterator[None]:
    """Generation by its own settings only: a model may come with a temperature or a penalty, and then greedy is not.

    Writing ends where the model's own settings or its tokenizer say, which differ in many models.
    """
    from transformers import GenerationConfig

    model: Any = base.model
    former = model.generation_config
    starts = {n: getattr(former, n, None) for n in ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")}
    pad = base.tokenizer.pad_token_id
    model.generation_config = GenerationConfig(**starts, eos_token_id=ends(base) or None, pad_token_id=pad)
    try:
        yield
    finally:
        model.generation_config = former


def ends(base: Base) -> list[int]:
    """The tokens that end what a model writes."""
    settings: Any = base.model.generation_config
    own = settings.eos_token_id if settings is not None else None
    return sorted({*(own if isinstance(own, list) else [own]), base.tokenizer.eos_token_id} - {None})


def answers(
    base: Base,
    examples: Sequence[Encoded],
    kind: Kind,
    batch_size: int,
    max_new_tokens: int | None,
    progress: Callable[[int], object] | None,
) -> Iterator[Prediction]:
    """Let the model answer the prompt of each example, for `evaluate`.

    Raises:
        DataError: an example has no prompt.
    """
    pairs = [_prompt_and_reference(example, kind) for example in examples]
    if any(not prompt for prompt, _ in pairs):
        raise DataError("generate: expected a prompt before each answer, found plain text; give prompt and completion")
    longest = max_new_tokens or max(len(reference) for _, reference in pairs)
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]))  # of like lengths, so that little is padded
    written: dict[int, str] = {}
    prompts = [pairs[i][0] for i in order]
    for i, text in zip(order, complete(base, prompts, batch_size=batch_size, max_new_tokens=longest), strict=True):
        written[i] = text
        if progress is not None:
            progress(1)
    for i, (prompt, reference) in enumerate(pairs):
        yield Prediction(decode(prompt, base.tokenizer), decode(reference, base.tokenizer), written[i])


def _prompt_and_reference(example: Encoded, kind: Kind) -> tuple[list[int], list[int]]:
    """What the model is given and what it should write: the last answer, and all before it."""
    ids, labels = example["input_ids"], example["labels"]
    assert isinstance(labels, list)
    if kind == "seq2seq":
        return ids, labels
    end = max(i for i, label in enumerate(labels) if label != IGNORE) + 1
    start = end
    while start and labels[start - 1] != IGNORE:
        start -= 1
    return ids[:start], ids[start:end]


def decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of tokens, without the special ones."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of `size`, the last one shorter."""
    return (list(items[i : i + size]) for i in range(0, len(items), size))


def device_of(model: nn.Module) -> torch.device:
    """Where a model takes its inputs."""
    return next(model.parameters()).device
