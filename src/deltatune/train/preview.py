"""A look at one sample: what of it is learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deltatune.train.encode import IGNORE, Encoded

if TYPE_CHECKING:
    import rich.text
    from transformers import PreTrainedTokenizerBase

__all__ = ["render_sample", "render_sample_plain"]


def render_sample(example: Encoded, tokenizer: PreTrainedTokenizerBase) -> rich.text.Text:
    """Show a sample as the model sees it: learned tokens in green, the rest dimmed."""
    from rich.text import Text as RichText

    shown = RichText()
    for piece, learned in _pieces(example, tokenizer):
        shown.append(piece, style="bold green" if learned else "dim")
    return shown


def render_sample_plain(example: Encoded, tokenizer: PreTrainedTokenizerBase) -> str:
    """Show a sample without colours: learned tokens stand between ⟦ and ⟧."""
    return "".join(f"⟦{piece}⟧" if learned else piece for piece, learned in _pieces(example, tokenizer))


def _pieces(example: Encoded, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    ids, labels = example["input_ids"], example["labels"]
    if isinstance(labels, int):
        yield str(tokenizer.decode(ids)), False
        yield f" -> class {labels}", True
    elif len(labels) == len(ids) and all(label in (IGNORE, i) for i, label in zip(ids, labels, strict=True)):
        start = 0
        for end in range(1, len(ids) + 1):
            learned = labels[start] != IGNORE
            if end == len(ids) or (labels[end] != IGNORE) != learned:
                yield str(tokenizer.decode(ids[start:end])), learned
                start = end
    else:  # an encoder-decoder model's labels are a text of their own
        yield str(tokenizer.decode(ids)), False
        yield str(tokenizer.decode([i for i in labels if i != IGNORE])), True
