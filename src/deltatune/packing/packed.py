"""A packed batch: texts laid out in one row of tokens, with what attention and the loss have to know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deltatune.errors import DataError
from deltatune.packing.layout import Layout
from deltatune.packing.trie import Node, build
from deltatune.train.encode import IGNORE

__all__ = ["COLUMNS", "IGNORE", "SHARED", "Packed", "Text", "lay_out", "pack"]

SHARED = 16
"""How many tokens a stretch must have to be shared, by default."""


@dataclass(frozen=True)
class Packed:
    """Texts in one row of ``rows`` tokens, and their ``n`` targets.

    A row may predict several targets, where texts part behind it, and none.
    """

    input_ids: Tensor
    """``[1, rows]``."""
    position_ids: Tensor
    """``[1, rows]``: how many tokens of its text stand before each."""
    layout: Layout
    """Who attends to whom."""
    predicting: Tensor
    """The row that predicts each target, ``[n]``."""
    labels: Tensor
    """The targets, ``[n]``."""
    weights: Tensor | None
    """How much each target counts, ``[n]``; ``None``: all alike."""
    texts: Tensor
    """The text that each target is of, ``[n]``."""
    tokens: int
    """How many tokens the texts have, each counted by itself; ``rows`` is less by what they share."""

    @property
    def rows(self) -> int:
        """How many tokens the model runs over."""
        return self.input_ids.shape[1]

    @property
    def total_weight(self) -> Tensor:
        """What the loss is divided by: the targets, or their weights, added up."""
        return torch.tensor(len(self.labels)) if self.weights is None else self.weights.sum()

    def to(self, device: torch.device | str, **kwargs: Any) -> Packed:
        """The same on ``device``. Further arguments are those of ``Tensor.to``."""
        if self.input_ids.device == torch.device(device):
            return self
        return Packed(
            self.input_ids.to(device, **kwargs),
            self.position_ids.to(device, **kwargs),
            self.layout.to(device, **kwargs),
            self.predicting.to(device, **kwargs),
            self.labels.to(device, **kwargs),
            None if self.weights is None else self.weights.to(device, **kwargs),
            self.texts.to(device, **kwargs),
            self.tokens,
        )


@dataclass(frozen=True, slots=True)
class Text:
    """An example without padding: token ids, and for each a label and a weight."""

    ids: list[int]
    labels: list[int]
    weights: list[float] | None

    @classmethod
    def of(cls, example: Mapping[str, Any]) -> Text:
        """The tokens of an example that its ``attention_mask``, if it has one, lets be seen.

        Raises:
            DataError: there are none, or not a label or weight for each.
        """
        columns = {name: _plain(example[name]) for name in COLUMNS if name in example}
        tokens = len(columns["input_ids"])
        for name, column in columns.items():
            if len(column) != tokens:
                raise DataError(
                    f"batch: expected {name} for each of {tokens} tokens, found {len(column)}; encode again"
                )
        seen = columns.pop("attention_mask", None)
        if seen is not None and not all(seen):
            columns = {
                name: [value for value, kept in zip(c, seen, strict=True) if kept] for name, c in columns.items()
            }
        if not columns["input_ids"]:
            raise DataError("batch: expected tokens in each example, found one without; drop it")
        return cls(columns["input_ids"], columns.get("labels", []), columns.get("weights"))


COLUMNS = ("input_ids", "labels", "weights", "attention_mask")
"""What an example may have, a number a token each."""


def _plain(numbers: Any) -> list[Any]:
    return numbers if isinstance(numbers, list) else list(torch.as_tensor(numbers).tolist())


def pack(examples: Sequence[Mapping[str, Any]], *, share: bool = True, least: int = SHARED) -> Packed:
    """Lay examples out in one row.

    Args:
        examples: each with ``input_ids``, ``labels`` (-100 where not learned; that of a text's first token is never
            used, for nothing predicts it) and, if targets are to count differently, ``weights``, one a token. An
            ``attention_mask`` with zeros takes tokens out.
        share: run what texts begin with alike only once. Default: true.
        least: share only stretches of so many tokens. Default: 16.

    Raises:
        DataError: there are no examples, or one can not be read.
    """
    if not examples:
        raise DataError("batch: expected at least one example, found none; check the data loader")
    read = [Text.of(example) for example in examples]
    texts = [text.ids for text in read]
    nodes = build(texts, least=least) if share else _chains(texts)
    targets = [
        (text, at, label)
        for text, each in enumerate(read)
        for at, label in enumerate(each.labels)
        if at and label != IGNORE
    ]
    weights = None
    if any(text.weights is not None for text in read):
        weights = torch.tensor([1.0 if (w := read[text].weights) is None else w[at] for text, at, _ in targets])
    return lay_out(nodes, texts, targets, weights)


def lay_out(
    nodes: Sequence[Node],
    texts: Sequence[Sequence[int]],
    targets: Sequence[tuple[int, int, int]] = (),
    weights: Tensor | None = None,
) -> Packed:
    """The rows of a trie, with what they are to predict.

    Args:
        nodes: the trie.
        texts: its texts.
        targets: each the number of a text, the place behind the token that predicts it, and the token. Default: none.
        weights: how much each target counts, ``[n]``. Default: all alike.
    """
    layout, rows = Layout.of(nodes), nodes[-1].stop
    ids, positions = torch.empty(rows, dtype=torch.long), torch.empty(rows, dtype=torch.long)
    for node in nodes:
        stop = node.depth + node.length
        ids[node.start : node.stop] = torch.tensor(texts[node.texts[0]][node.depth : stop])
        positions[node.start : node.stop] = torch.arange(node.depth, stop)
    rows_of = layout.rows_of_texts()
    found = [(rows_of[text][at - 1], label, text) for text, at, label in targets]
    predicting, labels, of = torch.tensor(found, dtype=torch.long).reshape(-1, 3).unbind(1)
    return Packed(
        input_ids=ids[None],
        position_ids=positions[None],
        layout=layout,
        predicting=predicting,
        labels=labels,
        weights=weights,
        texts=of,
        tokens=sum(map(len, texts)),
    )


def _chains(texts: Sequence[Sequence[int]]) -> list[Node]:
    nodes: list[Node] = []
    for number, text in enumerate(texts):
        nodes.append(Node(nodes[-1].stop if nodes else 0, len(text), 0, None, (number,)))
    return nodes
