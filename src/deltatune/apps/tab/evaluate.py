"""The protocol of TabLLM (Hegselmann et al. 2023, https://arxiv.org/abs/2210.10723), the same rows for every model.

For each data set and seed the rows are split 80 to 20, each class alike; for each number of shots so many rows are
drawn from the larger part, as many of each class; and every model learns from these and is judged by its AUC on the
smaller part, which is never used for anything else. The paper draws with replacement, and means over each class
against the rest; here no row is drawn twice, and the mean is over pairs of classes (see `auc`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.apps.tab.auc import auc
from deltatune.apps.tab.contenders import Contender, Lesson, contenders
from deltatune.apps.tab.report import TabReport, shots_text
from deltatune.apps.tab.results import Result, ResultFile
from deltatune.errors import ConfigError, DataError, DeltaError

if TYPE_CHECKING:
    from deltatune.apps.tab.data import TabData

__all__ = ["DEFAULT_MODELS", "DEFAULT_SHOTS", "RESULTS", "SEEDS", "Progress", "evaluate"]

SEEDS = (42, 1024, 0, 1, 32)
"""The paper's."""
DEFAULT_SHOTS = (0, 4, 8, 16, 32, 64)
DEFAULT_MODELS = ("tabllm", "logistic", "forest", "boosting")
RESULTS = "results.jsonl"
TEST_SHARE = 0.2

Progress = Callable[[int, int, Result], object]
"""Called with how many results there are, how many there will be, and the latest."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one seed, by number."""

    train: Sequence[int]
    test: Sequence[int]


def evaluate(
    datasets: Sequence[TabData],
    models: str | Iterable[str | Contender] = DEFAULT_MODELS,
    *,
    shots: Sequence[int | None] = DEFAULT_SHOTS,
    seeds: Sequence[int] = SEEDS,
    test_rows: int | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TabReport:
    """Measure models on data sets, by the number of shots, over seeds.

    A model that fails has a result that says why, and the rest goes on. A baseline and an encoder know nothing without
    shots, so they have no result there.

    Args:
        datasets: what to classify.
        models: as :func:`~deltatune.apps.tab.contenders.contenders` reads them. Default: TabLLM and the baselines.
        shots: rows to learn from; `None` for all. Default: 0, 4, 8, 16, 32 and 64.
        seeds: each has a split, draws, and starts the models. Default: the paper's five.
        test_rows: rows to judge by at most, the same for every model. Default: all of the smaller part.
        folder: where results are kept as they come, and from where those that are there already are taken. Default:
            nowhere.
        progress: told of each result.

    Raises:
        ConfigError: a setting is out of range, or a model is unknown.
        DataError: a data set has too few rows of a class to split them, or two share a name.
    """
    found = list(_contenders(models))
    _check(datasets, found, shots, seeds, test_rows)
    rows = {(data.name, seed): _split(data, seed, test_rows) for data in datasets for seed in seeds}
    kept = ResultFile(None if folder is None else folder / RESULTS)
    jobs = [
        (data, seed, k, model)
        for data in datasets
        for seed in seeds
        for k in shots
        for model in found
        if k != 0 or not model.needs_shots
    ]
    settings = {data.name: _digest(data, test_rows) for data in datasets}
    results = []
    for number, (data, seed, k, model) in enumerate(jobs, 1):
        asked = Result(data.name, model.label, k, seed, settings[data.name])
        result = kept.get(asked.key)
        if result is None:
            result = _measured(asked, data, rows[data.name, seed], model)
            kept.add(result)
        results.append(result)
        if progress is not None:
            progress(number, len(jobs), result)
    baselines = tuple(model.label for model in found if model.is_baseline)
    about: dict[str, Any] = {
        "data": ", ".join(
            f"{each.name} ({len(each.labels):,} rows, {each.labels.nunique()} classes)" for each in datasets
        ),
        "seeds": ", ".join(map(str, seeds)),
        "split": "80 % to draw shots from, 20 % to test on, each class alike; another split for each seed",
        "shots": "as many of each class, none twice",
        "baselines": "settings chosen by AUC, in up to 4-fold cross-validation on the shots" if baselines else None,
        "test rows": None if test_rows is None else f"at most {test_rows}, drawn once for each seed",
    }
    return TabReport(tuple(results), baselines, about)


def _contenders(models: str | Iterable[str | Contender]) -> Iterator[Contender]:
    for each in [models] if isinstance(models, str) else models:
        if isinstance(each, Contender):
            yield each
        else:
            yield from contenders(each)


def _check(
    datasets: Sequence[TabData],
    models: Sequence[Contender],
    shots: Sequence[int | None],
    seeds: Sequence[int],
    test_rows: int | None,
) -> None:
    for name, values in (
        ("datasets", [data.name for data in datasets]),
        ("models", [model.label for model in models]),
        ("shots", [*map(shots_text, shots)]),
        ("seeds", [*seeds]),
    ):
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"{name}: expected some, each once, found {values}; correct them")
    if any(k is not None and k < 0 for k in shots):
        raise ConfigError(f"shots: expected 0 or more, found {min(k for k in shots if k is not None)}; correct it")
    if test_rows is not None and test_rows < 1:
        raise ConfigError(f"test_rows: expected at least 1, found {test_rows}; correct it")


def _split(data: TabData, seed: int, test_rows: int | None) -> Rows:
    """The rows to draw from, and those to judge by."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    labels = data.labels.to_numpy()
    classes = set(labels.tolist())
    try:
        train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed)
        if test_rows is not None and test_rows < len(test):
            test, _ = train_test_split(test, train_size=test_rows, stratify=labels[test], random_state=seed)
    except ValueError as error:
        raise DataError(f"{data.name}: expected enough rows of each class to split them, found {error}") from None
    if missing := classes - set(labels[test].tolist()):
        raise DataError(
            f"{data.name}: expected rows of every class to test on, found none of {min(map(str, missing))} among "
            f"{len(test)}; allow more test rows, or drop the class"
        )
    return Rows(train.tolist(), test.tolist())


def _measured(asked: Result, data: TabData, rows: Rows, model: Contender) -> Result:
    """Draw, fit, judge; what fails on the way is the result."""
    start = time.perf_counter()
    try:
        lesson = Lesson.draw(data, asked.shots, asked.seed, rows.train)
        fitted = model.fit(lesson)
        probabilities = fitted.predict_proba(data.frame.iloc[rows.test])
        area = auc(data.labels.iloc[rows.test].tolist(), probabilities, list(fitted.classes_))
    except Exception as error:
        return replace(asked, failure=_reason(error), seconds=time.perf_counter() - start)
    return replace(asked, auc=area, seconds=time.perf_counter() - start, rows=lesson.shots, test_rows=len(rows.test))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, DeltaError) else f"{type(error).__name__}: {text}"


def _digest(data: TabData, test_rows: int | None) -> str:
    """Of all that tells results of one name apart."""
    import pandas as pd

    digest = hashlib.sha256(pd.util.hash_pandas_object(data.frame.astype(str), index=False).to_numpy().tobytes())
    columns = [(str(name), str(kind)) for name, kind in data.frame.dtypes.items()]
    labels = [str(data.labels.name), str(data.labels.dtype), *map(str, data.labels)]
    about = [columns, labels, data.question, dict(data.units), test_rows]
    said = {str(label): answer for label, answer in (data.answers or {}).items()}
    digest.update(json.dumps([*about, said], sort_keys=True).encode())
    return digest.hexdigest()[:16]
