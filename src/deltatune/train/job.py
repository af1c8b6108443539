"""A tokenizer at work: how texts that follow one another become tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from deltatune.errors import ConfigError, DataError
from deltatune.train.labels import LabelSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatUse", "Job", "Part"]

ChatUse: TypeAlias = Literal["auto"] | bool
Part: TypeAlias = tuple[list[int], bool]  # tokens, and whether they are learned

_SANE_LENGTH = 10**9  # tokenizers without a limit give a number beyond this as theirs


@dataclass(frozen=True)
class Job:
    """A tokenizer, what there is to know of its habits, and how to use it."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    chat: ChatUse
    labels: LabelSet | None

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before a text of its own accord (bos, CLS), and behind it (eos, SEP)."""
        bare, framed = self.ids("a"), self.ids("a", special=True)
        starts = (i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        start = next(starts, 0)
        return framed[:start], framed[start + len(bare) :]

    @cached_property
    def limit(self) -> int | None:
        own = self.tokenizer.model_max_length
        limit = self.max_length if self.max_length is not None else own if own < _SANE_LENGTH else None
        least = sum(map(len, self.frame)) + 2  # a token of the prompt and one of the answer
        if limit is not None and limit < least:
            raise ConfigError(f"max_length: found {limit}; expected at least {least}; raise it")
        return limit

    @cached_property
    def specials(self) -> dict[str, int]:
        return {str(token): i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    @cached_property
    def eos(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise DataError("tokenizer: has no eos token; expected one to end completions; set tokenizer.eos_token")
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def adds_space(self) -> bool:
        first = self.tokenizer.convert_ids_to_tokens(self.ids("a"))[:1]
        return bool(first) and str(first[0]).startswith(("\u2581", "\u0120"))

    def ids(self, text: str, *, special: bool = False) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def continued(self, text: str) -> list[int]:
        """The tokens of a text that goes on from another.

        Tokenizers of the Llama 2 kind put a space before any text, which would part a completion from its prompt;
        behind an anchor, whose tokens are then taken off, they do not.
        """
        if not self.adds_space:
            return self.ids(text)
        anchor, whole = self.ids("\n"), self.ids("\n" + text)
        return whole[len(anchor) :] if whole[: len(anchor)] == anchor else self.ids(text)

    def parts(self, texts: Iterable[tuple[str, bool]]) -> Iterator[Part]:
        first = True
        for text, learned in texts:
            if text:
                yield (self.ids(text) if first else self.continued(text)), learned
                first = False
