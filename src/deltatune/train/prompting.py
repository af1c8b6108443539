"""A prompt as the tokens that it has in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltatune.io.bases import Base

__all__ = ["prompt_tokens", "turn_tokens"]


def prompt_tokens(base: Base, prompt: str, *, chat: bool | None = None) -> list[int]:
    """The tokens of a prompt, up to where the model goes on.

    Args:
        base: the model and its tokenizer.
        prompt: plain text.
        chat: as a user's turn of a chat. Default: if the tokenizer has a chat template.
    """
    if chat or (chat is None and base.tokenizer.chat_template):
        return turn_tokens(base, [{"role": "user", "content": prompt}])
    if base.task == "seq2seq-lm":
        return list(base.tokenizer(prompt)["input_ids"])
    return _causal_tokens(base, prompt)


def turn_tokens(base: Base, turns: Sequence[Mapping[str, Any]]) -> list[int]:
    """The tokens of the turns of a chat, up to where the model goes on. The tokenizer has to have a chat template."""
    tokenizer: Any = base.tokenizer  # its annotations know of no content but strings
    text = str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _causal_tokens(base: Base, prompt: str) -> list[int]:
    """The tokens of a plain prompt with what the tokenizer puts before a text, but not what it puts behind."""
    bare = list(base.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    framed = list(base.tokenizer(prompt)["input_ids"])
    starts = (i for i in range(len(framed) - len(bare) + 1) if framed[i : i + len(bare)] == bare)
    return framed[: next(starts, 0) + len(bare)]
