"""The constraint as `transformers`' generation takes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from deltatune.apps.sql.constrained.lexing import Place, QueryWords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["OnlyKnownWords"]

LOOK = 32
"""How many of the likeliest tokens are looked at; more of them where none of these may come."""
WIDER = 8
CUT = "\N{REPLACEMENT CHARACTER}"
"""What tokenizers give for a character of which a token holds a part."""
PARTS = 4
"""Bytes of the longest character."""


class _Row(NamedTuple):
    """Where an answer is."""

    place: Place
    begun: tuple[int, ...] = ()
    """The tokens of a letter that is not whole yet, so that nobody can tell whether it may stand there."""


class OnlyKnownWords(LogitsProcessor):
    """Lets a model write only what can become a query.

    Like PICARD (Scholak 2021, https://arxiv.org/abs/2109.05093, section 3) it looks at the likeliest tokens alone, so
    that a step costs little. One object serves one call of `generate`, with any number of beams or of answers to each
    prompt.

    Args:
        words: for each prompt what queries are made of; the rows of a batch are of the prompts in their order, as many
            of each.
        tokenizer: the model's.
        ends: the tokens that end an answer.
    """

    def __init__(self, words: Sequence[QueryWords], tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> None:
        self.words = list(words)
        self.tokenizer = tokenizer
        self.ends = frozenset(ends)
        self._prompt: int | None = None
        self._rows: dict[tuple[int, tuple[int, ...]], _Row | None] = {}
        self._texts: dict[tuple[int, ...], str] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[rows, tokens]`` with -inf for what may not come next."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1]
        written = [tuple(row) for row in input_ids[:, self._prompt :].tolist()]
        copies = len(written) // len(self.words)
        rows = [(row // copies, ids) for row, ids in enumerate(written)]
        self._rows = {(prompt, ids): self._row(prompt, ids) for prompt, ids in rows}
        masked = scores.clone()
        for number, (prompt, ids) in enumerate(rows):
            row = self._rows[prompt, ids]
            if row is not None:
                masked[number] = self._masked(self.words[prompt], row, scores[number])
        return masked

    def _row(self, prompt: int, ids: tuple[int, ...]) -> _Row | None:
        """Where an answer is; `None` where nothing can be said, as when it is over."""
        if not ids:
            return _Row(Place())
        before = self._rows.get((prompt, ids[:-1]))
        if before is None or ids[-1] in self.ends:
            return None
        return self._behind(self.words[prompt], before, ids[-1])

    def _behind(self, words: QueryWords, row: _Row, token: int) -> _Row | None:
        """Where an answer is behind one more token; `None` if no query goes on so."""
        tokens = (*row.begun, token)
        text = self._text(tokens)
        if text.endswith(CUT) and len(tokens) < PARTS and words.may_go_on(row.place, text.rstrip(CUT)):
            return row._replace(begun=tokens)
        place = words.read(row.place, text)
        return None if place is None else _Row(place)

    def _masked(self, words: QueryWords, row: _Row, scores: Tensor) -> Tensor:
        count = min(LOOK, len(scores))
        while True:
            likeliest = scores.topk(count).indices.tolist()
            allowed = [token for token in likeliest if self._may(words, row, token)]
            if allowed or count == len(scores):
                break
            count = min(count * WIDER, len(scores))
        if not allowed:  # better a query that has to be mended than none
            return scores
        kept = torch.full_like(scores, -torch.inf)
        kept[allowed] = scores[allowed]
        return kept

    def _may(self, words: QueryWords, row: _Row, token: int) -> bool:
        if token in self.ends:
            return not row.begun and words.may_end(row.place)
        return bool(self._text((token,))) and self._behind(words, row, token) is not None

    def _text(self, tokens: tuple[int, ...]) -> str:
        """What tokens add to a text: tokenizers drop the space that one begins with at the beginning of a text."""
        if tokens not in self._texts:
            anchor, text = self._anchor
            self._texts[tokens] = self._decoded(anchor, *tokens)[len(text) :]
        return self._texts[tokens]

    def _decoded(self, *tokens: int) -> str:
        settings = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(tokens), **settings))

    @cached_property
    def _anchor(self) -> tuple[int, str]:
        """A token to stand before others, and its text."""
        token = int(self.tokenizer("a", add_special_tokens=False)["input_ids"][-1])
        return token, self._decoded(token)
