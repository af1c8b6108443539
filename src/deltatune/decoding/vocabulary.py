"""Which tokens of the experts are which of the base: one vocabulary, or two that share tokens.

Numbers of tokens are compared by what they stand for, where tokenizers are known. Without them sizes are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from deltatune.errors import ConfigError

__all__ = ["Matching", "Vocabulary", "match"]

Matching: TypeAlias = Literal["same", "map"]


@dataclass(frozen=True)
class Vocabulary:
    """How the experts' tokens lie in the base's vocabulary."""

    size: int
    """The columns of the base's logits."""
    shared: Tensor | None = None
    """The columns that the experts have too, ``[shared]``; ``None`` if they are all, in the same order."""
    theirs: Tensor | None = None
    """The experts' columns for these, ``[shared]``."""
    inputs: Tensor | None = None
    """The experts' token for each of the base, ``[size]``; ``None`` if it is the same."""
    share: float = 1.0
    """How many of the base's tokens the experts have."""

    def ids(self, ids: Tensor) -> Tensor:
        """The base's tokens as the experts know them."""
        return ids if self.inputs is None else self.inputs.to(ids.device)[ids]

    def difference(self, expert: Tensor, antiexpert: Tensor) -> Tensor:
        """What the experts say of the base's tokens, ``[..., size]``: 0 for those that they do not have.

        Logits mean nothing by themselves, so where some columns have no counterpart log-probabilities are compared.

        Args:
            expert: its logits, ``[..., tokens]``.
            antiexpert: the same of the other.
        """
        if self.shared is None or self.theirs is None:
            return expert - antiexpert
        columns = self.theirs.to(expert.device)
        change = (expert.log_softmax(dim=-1)[..., columns]) - (antiexpert.log_softmax(dim=-1)[..., columns])
        return change.new_zeros(*change.shape[:-1], self.size).index_copy(-1, self.shared.to(expert.device), change)


def match(sizes: tuple[int, int, int], tokenizers: tuple[Any, Any, Any], matching: str) -> Vocabulary:
    """Find out whether base, expert and anti-expert have one vocabulary, or map the experts' into the base's.

    Args:
        sizes: the columns of the logits of the three.
        tokenizers: their tokenizers; ``None`` where one is not known.
        matching: ``"same"``: refuse two vocabularies. ``"map"``: match tokens that are written alike, and the special
            tokens that serve the same end.

    Raises:
        ConfigError: the vocabularies differ, share nothing, or can not be told apart.
    """
    if matching not in get_args(Matching):
        raise ConfigError(f"vocabulary: expected same or map, found {matching!r}; choose one")
    (base, expert, anti), (own, theirs, other) = sizes, tokenizers
    if theirs is not None and other is not None and theirs.get_vocab() != other.get_vocab():
        raise ConfigError("antiexpert: expected the expert's vocabulary, found another; take a model of its family")
    theirs = theirs if theirs is not None else other
    if own is None or theirs is None:
        if matching == "map":
            raise ConfigError("vocabulary: expected tokenizers to map by, found none; pass tokenizers=")
        if len({base, expert, anti}) > 1:
            raise ConfigError(
                f"vocabulary: expected one size, found {base:,} of the base, {expert:,} of the expert and {anti:,} of "
                "the anti-expert; pass tokenizers= to see which tokens agree"
            )
        return Vocabulary(base)
    if own.get_vocab() == theirs.get_vocab():
        return _one_vocabulary(sizes, len(own.get_vocab()))
    mapped = _mapped(own, theirs, base, min(expert, anti))
    if matching == "same":
        raise ConfigError(
            f"vocabulary: expected one, found two that share {mapped.share:.1%} of the base's tokens; take experts of "
            'the base\'s family, or pass vocabulary="map"'
        )
    return mapped


def _one_vocabulary(sizes: tuple[int, int, int], tokens: int) -> Vocabulary:
    """One vocabulary; models of a family may have more columns than tokens, and not equally many."""
    if len(set(sizes)) == 1:
        return Vocabulary(sizes[0])
    columns = torch.arange(min(tokens, *sizes))
    return Vocabulary(sizes[0], columns, columns, None)


def _mapped(own: Any, theirs: Any, size: int, columns: int) -> Vocabulary:
    """Tokens that are written alike, and special ones of the same use."""
    known = {token: number for token, number in theirs.get_vocab().items() if number < columns}
    pairs = {number: known[token] for token, number in own.get_vocab().items() if token in known and number < size}
    for use in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        a, b = getattr(own, use, None), getattr(theirs, use, None)
        if a is not None and b is not None and a < size and b < columns:  # some are added without a column
            pairs.setdefault(a, b)
    if not pairs:
        raise ConfigError("vocabulary: expected tokens that both have, found none; take experts of the base's family")
    choices = (theirs.unk_token_id, theirs.pad_token_id, theirs.eos_token_id)
    inputs = torch.full((size,), next((number for number in choices if number is not None and number < columns), 0))
    shared, of = torch.tensor(sorted(pairs)), torch.tensor([pairs[number] for number in sorted(pairs)])
    inputs[shared] = of
    return Vocabulary(size, shared, of, inputs, len(pairs) / len(own.get_vocab()))
