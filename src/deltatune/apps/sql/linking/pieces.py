"""Tables as text that a small encoder can read: wide ones in several pieces, with the place of each column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deltatune.apps.sql.schema import Column, Database, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Piece", "Span", "cut"]

WORDS = 40  # of a column's or table's comment; the rest is cut off


@dataclass(frozen=True, slots=True)
class Span:
    """Where a column stands in the tokens of a piece, from `start` to before `stop`."""

    column: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A table, or some columns of a wide one, as text: "table: comment | column: comment | ...".

    Args:
        table: its name.
        text: what the encoder reads.
        head: how many tokens the table's name and comment are, at the beginning.
        spans: its columns.
        length: of the text, in tokens.
    """

    table: str
    text: str
    head: int
    spans: tuple[Span, ...]
    length: int


def cut(schema: Database, tokenizer: PreTrainedTokenizerBase, longest: int) -> list[Piece]:
    """All tables of a database in pieces, each with the table's name and comment at its beginning.

    Args:
        schema: the database.
        tokenizer: the encoder's.
        longest: tokens of a piece; one that holds a single column may have more.
    """
    return [piece for table in schema.tables for piece in _cut_table(table, tokenizer, longest)]


def _cut_table(table: Table, tokenizer: PreTrainedTokenizerBase, longest: int) -> Iterator[Piece]:
    head = _said(table)
    texts = [f" | {_said(column)}" for column in table.columns]
    start, *lengths = (len(ids) for ids in tokenizer([head, *texts], add_special_tokens=False)["input_ids"])
    group: list[int] = []
    size = start
    for i, length in enumerate(lengths):
        if group and size + length > longest:
            yield _piece(table, head, [texts[j] for j in group], [table.columns[j] for j in group], tokenizer)
            group, size = [], start
        group.append(i)
        size += length
    yield _piece(table, head, [texts[j] for j in group], [table.columns[j] for j in group], tokenizer)


def _piece(
    table: Table, head: str, texts: Sequence[str], columns: Sequence[Column], tokenizer: PreTrainedTokenizerBase
) -> Piece:
    text = head + "".join(texts)
    encoded = tokenizer(text, add_special_tokens=False)
    spans, end = [], len(head)
    for column, said in zip(columns, texts, strict=True):
        first, end = end + len(" | "), end + len(said)
        spans.append(Span(column.name, encoded.char_to_token(first), encoded.char_to_token(end - 1) + 1))
    start = encoded.char_to_token(len(head) - 1) + 1
    return Piece(table.name, text, start, tuple(spans), len(encoded["input_ids"]))


def _said(item: Table | Column) -> str:
    """A name, split where it has underscores, and its comment."""
    name = " ".join(item.name.replace("_", " ").split()) or item.name
    comment = " ".join(item.comment.split()[:WORDS])
    return f"{name}: {comment}" if comment else name
