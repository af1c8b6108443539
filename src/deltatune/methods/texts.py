"""From a text to the token ids that soft prompts and prefixes start as."""

from __future__ import annotations

from typing import Any

from deltatune.methods.base import check

__all__ = ["token_ids"]


def token_ids(tokenizer: Any, text: str, number: int | None = None) -> tuple[int, ...]:
    """The tokens of ``text`` without special ones, repeated or cut to ``number`` of them.

    Raises:
        ConfigError: the text has no tokens.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    check(len(ids) > 0, "text", "at least one token", text)
    return tuple(int(ids[i % len(ids)]) for i in range(number or len(ids)))
