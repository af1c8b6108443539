"""Scores of answers from padded batches, for models that can not take packed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from deltatune.errors import DataError
from deltatune.train.collate import Collator

__all__ = ["Pair", "causal_scores", "encoder_decoder_scores"]

LOGITS = 256 * 2**20
"""Bytes of float32 logits that a batch may have."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and one of its answers."""

    prompt_number: int
    prompt: list[int]
    answer: list[int]

    @property
    def text(self) -> list[int]:
        """What a causal model reads to predict each token of the answer."""
        return self.prompt + self.answer[:-1]


def causal_scores(model: nn.Module, pairs: Sequence[Pair], room: int) -> list[float]:
    """The score of each pair, at most ``room`` tokens at a time."""
    scores = [0.0] * len(pairs)
    for chosen in _alike_long([len(pair.text) for pair in pairs], _room(model, room)):
        batch = [pairs[number] for number in chosen]
        ids, mask = _padded(model, [pair.text for pair in batch])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] :]  # a delta may put rows before
        found = _sums(logits, [len(pair.prompt) - 1 for pair in batch], [pair.answer for pair in batch])
        for number, score in zip(chosen, found, strict=True):
            scores[number] = score
    return scores


def encoder_decoder_scores(model: nn.Module, pairs: Sequence[Pair], room: int) -> list[float]:
    """The score of each pair, at most ``room`` tokens at a time; each distinct prompt is encoded once.

    Raises:
        DataError: the model's config does not say which token a decoder starts with.
    """
    scores = [0.0] * len(pairs)
    start = _start(model)
    of: dict[tuple[int, ...], list[int]] = {}
    for number, pair in enumerate(pairs):
        of.setdefault(tuple(pair.prompt), []).append(number)
    prompts = list(of)
    for chosen in _alike_long([len(prompt) for prompt in prompts], room):
        states, mask = _encoded(model, [list(prompts[prompt]) for prompt in chosen])
        rows = [(row, number) for row, prompt in enumerate(chosen) for number in of[prompts[prompt]]]
        lengths = [mask.shape[1] + len(pairs[number].answer) for _, number in rows]
        for some in _alike_long(lengths, _room(model, room)):
            numbers = [rows[each][1] for each in some]
            taken = torch.tensor([rows[each][0] for each in some], device=states.device)
            answers = [pairs[number].answer for number in numbers]
            ids, _ = _padded(model, [[start, *answer[:-1]] for answer in answers])
            logits = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states[taken]),
                attention_mask=mask[taken.to(mask.device)],
                decoder_input_ids=ids,
            ).logits[:, -ids.shape[1] :]
            for number, score in zip(numbers, _sums(logits, [0] * len(answers), answers), strict=True):
                scores[number] = score
    return scores


def _encoded(model: Any, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """What the encoder makes of prompts, ``[batch, tokens, d]``, and their mask; rows of a soft prompt come first."""
    ids, mask = _padded(model, prompts)
    return model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state, mask


def _start(model: Any) -> int:
    start = model.config.decoder_start_token_id
    if start is None:
        start = getattr(model.generation_config, "decoder_start_token_id", None)
    if start is None:
        raise DataError(
            f"{type(model).__name__}: expected a token that its decoder starts with, found none; "
            "set model.config.decoder_start_token_id"
        )
    return int(start)


def _sums(logits: Tensor, begins: Sequence[int], answers: Sequence[list[int]]) -> list[float]:
    """The log-probability of each answer, the first token of which row ``begins`` of its logits predicts."""
    targets = [
        (row, begin + at, token)
        for row, (begin, answer) in enumerate(zip(begins, answers, strict=True))
        for at, token in enumerate(answer)
    ]
    rows, columns, tokens = torch.tensor(targets, device=logits.device).unbind(1)
    chosen = logits[rows, columns]
    precise = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    losses = F.cross_entropy(precise, tokens, reduction="none").cpu().double()
    return torch.zeros(len(answers), dtype=torch.double).index_add_(0, rows.cpu(), -losses).tolist()


def _alike_long(lengths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Texts by number, longest first, as many at a time as have at most ``room`` tokens with their padding."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    while order:
        fit = max(1, room // lengths[order[0]])
        yield order[:fit]
        del order[:fit]


def _room(model: Any, room: int) -> int:
    """As many tokens as the logits of a whole batch leave room for."""
    return min(room, max(1, LOGITS // (4 * int(model.get_output_embeddings().weight.shape[0]))))


def _padded(model: Any, texts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, ``[batch, tokens]``. On the right, where a causal model does not see the padding."""
    pad = getattr(model.config, "pad_token_id", None)
    batch = Collator(0 if pad is None else int(pad))([{"input_ids": text} for text in texts])
    device = next(model.parameters()).device
    return batch["input_ids"].to(device), batch["attention_mask"].to(device)
