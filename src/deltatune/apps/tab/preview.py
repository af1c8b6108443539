"""A table as a language model gets it: before anything is loaded or trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltatune.apps.tab.contenders import ask_as_told, with_units
from deltatune.errors import DeltaError

if TYPE_CHECKING:
    from deltatune.apps.tab.columns import ColumnInfo
    from deltatune.apps.tab.data import TabData
    from deltatune.apps.tab.estimator import RowClassifier

__all__ = ["COUNTED", "Preview", "preview"]

COUNTED = 1000
"""Rows whose tokens are counted at most."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A table as a language model gets it.

    Args:
        rows: how many there are.
        classes: how many rows each has.
        columns: what was inferred of each; its information is that of all rows.
        text: one row.
        question: what is asked about it; `None` for an encoder, which is asked nothing.
        answers: what is said for each class; `None` likewise.
        tokens: of the text with the question, without what a chat's turns are marked by.
        most_tokens: of a row so, among the first thousand.
        no_tokens: why tokens were not counted; empty if they were.
    """

    rows: int
    classes: Mapping[str, int]
    columns: tuple[ColumnInfo, ...]
    text: str
    question: str | None
    answers: Mapping[str, str] | None
    tokens: int | None = None
    most_tokens: int | None = None
    no_tokens: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return dataclasses.asdict(self)


def preview(data: TabData, model: RowClassifier, row: int = 0) -> Preview:
    """Look at a table as a classifier would.

    Args:
        data: the table.
        model: the classifier, of which only the serializer, the question, and the tokenizer of the base count; where it
            has no question or answers it gets those of the table.
        row: the number of the row to show. Default: 0.
    """
    from deltatune.io.bases import load_tokenizer

    settings = model.get_params(deep=False)
    serializer = with_units(settings["serializer"], data.units).fit(data.frame, data.labels.tolist())
    ask_as_told(model, data)
    task = model.task(sorted(data.labels.unique().tolist()), str(data.labels.name))
    found = Preview(
        len(data.labels),
        {str(label): count for label, count in data.labels.value_counts().to_dict().items()},
        serializer.columns,
        serializer.texts(data.frame.iloc[[row]])[0],
        None if task is None else task.question,
        None if task is None else {str(label): said for label, said in task.answers.items()},
    )
    try:
        tokenizer = load_tokenizer(model.base)
    except DeltaError as error:
        return dataclasses.replace(found, no_tokens=str(error))

    texts = [found.text, *serializer.texts(data.frame.iloc[:COUNTED])]
    texts = texts if task is None else [task.prompt_of(text) for text in texts]
    tokens, *others = (len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    return dataclasses.replace(found, tokens=tokens, most_tokens=max(others))
