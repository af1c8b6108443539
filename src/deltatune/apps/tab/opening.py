"""Data sets and fitted classifiers, from what a user writes: a name, a file, a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from deltatune.apps.tab.data import TabData, Table
from deltatune.apps.tab.datasets import DATASETS, load_dataset
from deltatune.apps.tab.reading import read_table, split_target
from deltatune.errors import ConfigError, DataError
from deltatune.io.atomic import atomic_files

if TYPE_CHECKING:
    from deltatune.apps.tab.estimator import RowClassifier

__all__ = ["check_ending", "check_room", "load_classifier", "open_data", "open_rows", "predictions", "write_table"]

PREDICTION, PROBABILITY = "prediction", "probability of"
"""How the columns of predictions are called, the second with a class behind it."""


def open_data(
    source: str,
    target: str | None = None,
    *,
    query: str | None = None,
    question: str | None = None,
    answers: Mapping[str, str] | None = None,
) -> TabData:
    """Open a table with its classes.

    Args:
        source: the name of a data set, or a table as `read_table` takes it.
        target: the column of the class, for a table.
        query: SQL, for a database.
        question: what to ask about a row. Default: the data set's own; of a table its class, by the column's name.
        answers: what is said for each class, by the class as text. Default: likewise.

    Raises:
        ConfigError: there is no such data set or table, or a table has no target.
        DataError: the table has no such target, or the answers are not those of its classes.
    """
    if source in DATASETS and target is not None:
        raise ConfigError(
            f"{source}: expected no --target for a data set that is known, found {target!r}; leave it out"
        )
    if target is None:
        if source not in DATASETS:
            found = "no --target" if Path(source).exists() else "neither"
            raise ConfigError(
                f"{source}: expected a data set ({', '.join(DATASETS)}), or a file with --target, the column of the "
                f"class, found {found}; name one"
            )
        own = load_dataset(source)
        if question is None and answers is None:
            return own
        said = own.answers if answers is None else _answers(own.labels, answers)
        return Table(own.name, own.frame, own.labels, question or own.question, said, own.units)
    frame, labels = split_target(read_table(source, query), target)
    return Table(Path(source).stem, frame, labels, question, None if answers is None else _answers(labels, answers))


def open_rows(source: str, query: str | None = None) -> pd.DataFrame:
    """The rows of a data set or a table, as :func:`open_data` finds them; of a table with all columns.

    They are numbered anew: an index that a file brings may name two rows alike.
    """
    rows = load_dataset(source).frame if source in DATASETS else read_table(source, query)
    return rows.reset_index(drop=True)


def load_classifier(folder: Path, *, device: str | None = None) -> RowClassifier:
    """The fitted classifier in a folder, of whichever kind.

    Raises:
        FileFormatError: there is none, or it is damaged.
    """
    from deltatune.apps.tab.classifier import TabLLMClassifier
    from deltatune.apps.tab.heads import EncoderClassifier
    from deltatune.apps.tab.storing import FILE

    try:
        named = json.loads((folder / FILE).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, LookupError, TypeError):
        named = None
    kind: type[RowClassifier] = EncoderClassifier if named == EncoderClassifier.__name__ else TabLLMClassifier
    return kind.load(folder, device=device)  # says what is wrong with the file


def predictions(classifier: RowClassifier, rows: pd.DataFrame, *, probabilities: bool = False) -> pd.DataFrame:
    """The class of each row, and if asked for the probability of each class.

    Args:
        classifier: a fitted one.
        rows: with the columns that it was fitted to; others are ignored.
        probabilities: whether to give a column "probability of ..." for each class too.

    Raises:
        DataError: a column is missing.
    """
    names = getattr(classifier, "feature_names_in_", rows.columns)
    if missing := [name for name in names if name not in rows]:
        raise DataError(f"table: expected the columns of the training data, found none called {missing[0]}; add it")
    found = classifier.predict_proba(rows[list(names)])
    columns: dict[str, Any] = {PREDICTION: classifier.classes_[found.argmax(axis=1)]}
    if probabilities:
        columns |= {f"{PROBABILITY} {label}": found[:, at] for at, label in enumerate(classifier.classes_)}
    return pd.DataFrame(columns, index=rows.index)


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table whole or not at all.

    Raises:
        ConfigError: the file's ending is none of .csv, .tsv, .jsonl and .parquet.
    """
    check_ending(file)
    with atomic_files(file.parent) as scratch:
        _WRITERS[file.suffix.lower()](table, scratch / file.name)


def check_room(rows: pd.DataFrame) -> None:
    """See that a table has no columns that are called as predictions are.

    Raises:
        DataError: it has.
    """
    for name in map(str, rows.columns):
        if name == PREDICTION or name.startswith(f"{PROBABILITY} "):
            raise DataError(f"table: expected no column called {name!r}, as predictions are; rename or drop it")


def check_ending(file: Path) -> None:
    """See that a table can be written to a file of this name.

    Raises:
        ConfigError: its ending is none of .csv, .tsv, .jsonl and .parquet.
    """
    if file.suffix.lower() not in _WRITERS:
        raise ConfigError(f"{file}: expected a file ending in {', '.join(_WRITERS)}, found another; name it so")


_WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".tsv": lambda table, path: table.to_csv(path, index=False, sep="\t"),
    ".jsonl": lambda table, path: table.to_json(path, orient="records", lines=True, force_ascii=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}


def _answers(labels: pd.Series, answers: Mapping[str, str]) -> dict[Any, str]:
    """The answers by class, where the classes are known as text."""
    classes = {str(label): label for label in labels.unique().tolist()}
    if wrong := sorted({*answers} ^ {*classes}):
        names = ", ".join(sorted(classes))
        found = "one for another" if wrong[0] in answers else "none for the class"
        raise DataError(f"answers: expected one for each class of {names}, found {found}: {wrong[0]!r}; mend it")
    return {classes[name]: answer for name, answer in answers.items()}
