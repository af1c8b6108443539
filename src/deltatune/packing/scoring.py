r"""How likely a model finds given answers: what prompts and answers begin with alike runs once.

.. math:: s(a \mid p) = \sum_i \log P(a_i \mid p, a_{<i})

Choosing the candidate with the highest score is rank classification (Brown et al. 2020,
https://arxiv.org/abs/2005.14165, section 2.4). All prompts with all their answers are one trie: a template or examples
that prompts begin with, a prompt and what its answers begin with are rows that run once. The last token of an answer
predicts nothing that is asked for, so it does not run at all: answers of one token cost the logits of one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deltatune.attachment.bank import find_bank, unwrap
from deltatune.attachment.routing import Routing
from deltatune.attachment.shards import is_sharded
from deltatune.attachment.stacks import evaluating, stacks_of
from deltatune.errors import AttachError, DataError, SiteError
from deltatune.packing.known import ask
from deltatune.packing.packed import Packed, lay_out
from deltatune.packing.padded import Pair, causal_scores, encoder_decoder_scores
from deltatune.packing.path import PackedModel, why_not
from deltatune.packing.trie import alike, build

__all__ = ["AnswerScore", "score_answers"]

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """How likely a model finds an answer."""

    log_probability: float
    """The sum over its tokens, in natural logarithms."""
    tokens: int

    @property
    def mean(self) -> float:
        """The log-probability a token, for answers of different lengths."""
        return self.log_probability / self.tokens


def score_answers(
    model: nn.Module, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]], *, max_tokens: int = 4096
) -> list[list[AnswerScore]]:
    """Score the answers of prompts by their log-probabilities, with the deltas that are on.

    What prompts, and the answers of one, begin with alike runs once. A model that can not take packed batches gets
    padded ones, with the same results. An encoder-decoder encodes each distinct prompt once. Under ``dt.routed`` each
    prompt takes a route, in order, or as many in a row as there are prompts to a route.

    Args:
        model: one that writes: causal, or an encoder-decoder. It is run in evaluation mode and put back.
        prompts: token ids, each with those that the tokenizer puts before a text, and without those behind it.
        answers: for each prompt its answers, token ids. An end token counts where it is given.
        max_tokens: how many tokens a batch may have, after sharing. A longer text runs alone. Default: 4,096.

    Returns:
        For each prompt the scores of its answers, both in the order given.

    Raises:
        AttachError: there are routes, but not one for each prompt.
        DataError: a prompt or an answer is empty, or there is not a list of answers for each prompt.
        SiteError: the model does not write.
    """
    pairs = _pairs(prompts, answers)
    if max_tokens < 1:
        raise DataError(f"max_tokens: expected at least 1, found {max_tokens}; raise it")
    base, scores = unwrap(model), [0.0] * len(pairs)
    _check(base)
    with torch.no_grad(), evaluating(base):
        for chosen in _routed(base, [pair.prompt_number for pair in pairs], len(prompts)):
            found = _way(base)([pairs[number] for number in chosen], max_tokens)
            for number, score in zip(chosen, found, strict=True):
                scores[number] = score
    made = (AnswerScore(score, len(pair.answer)) for score, pair in zip(scores, pairs, strict=True))
    return [[next(made) for _ in each] for each in answers]


def _pairs(prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]]) -> list[Pair]:
    if len(prompts) != len(answers):
        raise DataError(f"answers: expected a list for each of {len(prompts)} prompts, found {len(answers)}; give all")
    pairs = []
    for number, (prompt, candidates) in enumerate(zip(prompts, answers, strict=True)):
        if not len(prompt):
            raise DataError(f"prompt {number}: expected tokens, found none; begin it with the tokenizer's bos token")
        for at, answer in enumerate(candidates):
            if not len(answer):
                raise DataError(f"answer {at} of prompt {number}: expected tokens, found none; drop it")
            pairs.append(Pair(number, list(prompt), list(answer)))
    return pairs


def _check(model: nn.Module) -> None:
    """Refuse what does not write."""
    stacks, writes = stacks_of(model), getattr(model, "can_generate", lambda: False)()
    # A stack without attention, such as Mamba's, does not say that it is causal.
    is_encoder = stacks.decoder is None and any(hasattr(module, "is_causal") for module in model.modules())
    if is_encoder or not writes:
        raise SiteError(
            f"{type(model).__name__}: expected a model that writes, found "
            f"{'an encoder' if is_encoder else 'none that generates'}; load it for causal-lm or seq2seq-lm"
        )


def _routed(model: nn.Module, prompt_of: Sequence[int], prompts: int) -> Iterator[list[int]]:
    """Pairs that take the same deltas, by number, each with the model so."""
    bank = find_bank(model)
    rows = None if bank is None else bank.routing.rows
    if bank is None or rows is None:
        yield list(range(len(prompt_of)))
        return
    repeat, rest = divmod(prompts, len(rows)) if rows else (0, prompts)
    if rest:
        raise AttachError(f"routed: expected {len(rows)} prompts or a multiple, found {prompts}; give a route a prompt")
    former = bank.routing
    for route in dict.fromkeys(rows):
        chosen = [number for number, prompt in enumerate(prompt_of) if rows[prompt // repeat] == route]
        with bank.under(Routing((route,), without=former.without)):  # of a batch that takes one route throughout
            yield chosen


def _way(model: nn.Module) -> Callable[[Sequence[Pair], int], list[float]]:
    """How a model scores pairs within a budget of tokens."""
    if all(stacks_of(model)):
        run: Any = encoder_decoder_scores
    else:
        run = causal_scores if is_sharded(model) or ask(why_not, model) else packed_scores
    return lambda pairs, room: run(model, pairs, room)


def packed_scores(model: nn.Module, pairs: Sequence[Pair], room: int) -> list[float]:
    """The score of each pair."""
    packed_model, device = PackedModel(model), next(model.parameters()).device
    scores = torch.zeros(len(pairs), dtype=torch.double)
    with packed_model.listening():
        for chosen in batches([pair.text for pair in pairs], room):
            batch = pack_pairs([pairs[number] for number in chosen]).to(device)
            losses, _ = packed_model.scores(batch)
            scores.index_add_(0, torch.tensor(chosen)[batch.texts.cpu()], -losses.cpu().double())
    return scores.tolist()


def batches(texts: Sequence[Ids], room: int) -> Iterator[list[int]]:
    """Texts by number, in the order of their tokens, as many at a time as have at most ``room`` rows together."""
    chosen: list[int] = []
    rows, last = 0, texts[0] if texts else ()
    for number in sorted(range(len(texts)), key=lambda number: list(texts[number])):
        text = texts[number]
        added = len(text) - (alike(last, text) if chosen else 0)  # in this order, that makes the size of their trie
        if chosen and rows + added > room:
            yield chosen
            chosen, rows, added = [], 0, len(text)
        chosen.append(number)
        rows, last = rows + added, text
    if chosen:
        yield chosen


def pack_pairs(pairs: Sequence[Pair]) -> Packed:
    """Pairs as one batch, whose targets are the tokens of the answers."""
    texts = [pair.text for pair in pairs]
    nodes = build(texts, least=1)
    targets = [
        (number, len(pair.prompt) + at, token)
        for number, pair in enumerate(pairs)
        for at, token in enumerate(pair.answer)
    ]
    return lay_out(nodes, texts, targets)
