"""Making a batch: examples of different lengths, padded into tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from deltatune.errors import ConfigError, DataError
from deltatune.train.encode import IGNORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Collator", "Side"]

Side: TypeAlias = Literal["right", "left"]


@dataclass(frozen=True, slots=True)
class Collator:
    """Pads examples (see `encode.Encoded`) to the longest of the batch; fit for a DataLoader's `collate_fn`.

    Args:
        pad_token_id: what fills `input_ids`. Any id will do, even eos: the attention mask is that of the examples, or
            goes by their lengths, not by ids.
        side: where the padding goes; "left" is for generation, which goes on from the last token of each row.
        multiple_of: pad further, up to a multiple of so many tokens; 8 suits tensor cores.

    Raises:
        ConfigError: `side` or `multiple_of` is out of range.
    """

    pad_token_id: int
    side: Side = "right"
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if self.side not in ("right", "left"):
            raise ConfigError(f"side: {self.side!r} is unknown; expected 'right' or 'left'; choose one")
        if self.multiple_of < 1:
            raise ConfigError(f"multiple_of: found {self.multiple_of}; expected at least 1; raise it")

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, *, side: Side = "right", multiple_of: int = 1) -> Collator:
        """A collator with the tokenizer's pad token, or its eos if it has none.

        Raises:
            ConfigError: the tokenizer has neither.
        """
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None:
            raise ConfigError("tokenizer: has no pad and no eos token; expected either; set tokenizer.pad_token")
        return cls(int(pad), side, multiple_of)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad a batch of B examples, the longest of T tokens.

        Returns:
            `input_ids` and `attention_mask`, [B, T] int64; `token_type_ids`, [B, T], if the examples have them; and
            `labels`, if the examples have them: [B] for class ids, else [B, L] with -100 for padding, where L is T
            unless prompt and completion are apart.

        Raises:
            DataError: the batch is empty, or its examples differ in what they hold.
        """
        if not examples:
            raise DataError("batch: found no examples; expected at least one; check the data loader")
        ids = _column(examples, "input_ids")
        seen = _column(examples, "attention_mask") or [[1] * len(row) for row in ids]
        fills = {"input_ids": (ids, self.pad_token_id), "attention_mask": (seen, 0)}
        if types := _column(examples, "token_type_ids"):
            fills["token_type_ids"] = (types, 0)
        batch = {name: self._padded(rows, fill) for name, (rows, fill) in fills.items()}
        if labels := _column(examples, "labels"):
            single = isinstance(labels[0], int)
            batch["labels"] = torch.tensor(labels) if single else self._padded(labels, IGNORE)
        return batch

    def _padded(self, rows: Sequence[list[int]], fill: int) -> torch.Tensor:
        longest = max(len(row) for row in rows)
        width = -(-longest // self.multiple_of) * self.multiple_of
        padded = torch.full((len(rows), width), fill, dtype=torch.long)
        for target, row in zip(padded, rows, strict=True):
            start = 0 if self.side == "right" else width - len(row)
            target[start : start + len(row)] = torch.tensor(row, dtype=torch.long)
        return padded


def _column(examples: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """The values of a field; none at all if no example has it."""
    values = [example[name] for example in examples if name in example]
    kinds = {type(value).__name__ for value in values}
    if values and len(values) < len(examples):
        raise DataError(f"batch: {len(values)} of {len(examples)} examples have {name!r}; expected all; encode alike")
    if len(kinds) > 1:
        raise DataError(f"batch: {name!r} is {' and '.join(sorted(kinds))}; expected one type; encode all alike")
    return values
