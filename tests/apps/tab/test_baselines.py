"""The baselines on columns of every kind, and how their settings are chosen."""

from __future__ import annotations

import datetime
import importlib.util
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deltatune.apps.tab import baselines
from deltatune.apps.tab.auc import auc
from deltatune.apps.tab.baselines import BASELINES, GRIDS, fit_baseline, label_of
from deltatune.apps.tab.shots import draw_shots
from deltatune.errors import ConfigError, DataError
from tests.apps.tab.frames import table


@pytest.fixture(autouse=True)
def small_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {
        name: {setting: values[: 2 if number == 0 else 1] for number, (setting, values) in enumerate(grid.items())}
        for name, grid in GRIDS.items()
    }
    monkeypatch.setattr(baselines, "GRIDS", few)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("classes", [2, 3])
def test_they_learn(name: str, classes: int) -> None:
    data = table(classes=classes)
    drawn = draw_shots(data.labels, 36)
    fitted = fit_baseline(name, data.frame.iloc[drawn], data.labels.iloc[drawn].tolist())
    found = fitted.predict_proba(data.frame)
    assert auc(data.labels.tolist(), found, list(fitted.classes_)) > 0.75
    again = fit_baseline(name, data.frame.iloc[drawn], data.labels.iloc[drawn].tolist())
    np.testing.assert_allclose(again.predict_proba(data.frame), found, rtol=1e-9)


@pytest.mark.parametrize("name", BASELINES)
def test_columns_of_every_kind(name: str) -> None:
    rows = 12
    days = pd.date_range("2024-01-01", periods=rows)
    frame = pd.DataFrame(
        {
            "mixed": [1, "a", None, 2.5] * 3,
            "empty": [None] * rows,
            "nan": np.full(rows, np.nan),
            "endless": [1.0, np.inf] * 6,
            "flag": pd.Series([True, None, False] * 4, dtype="boolean"),
            "category": pd.Categorical(["u", "v", None] * 4),
            "day": days.where(days.day != 3),
            "moment": days.tz_localize("UTC"),
            "time": days - days[0],
            "number": range(rows),
        }
    )
    fitted = fit_baseline(name, frame, [0, 1] * 6)
    frame["category"] = "never seen"
    found = fitted.predict_proba(frame)
    assert found.shape == (rows, 2)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize(
    "values",
    [
        [Decimal(number) / 4 for number in range(40)],
        [f"{number}.5" if number % 5 else "unknown" for number in range(40)],
        [f"2024-{1 + number // 20:02}-{1 + number % 20:02}" for number in range(40)],
        [datetime.date(2024, 1 + number // 20, 1 + number % 20) for number in range(40)],
    ],
    ids=["decimals", "unknown", "texts of days", "days"],
)
def test_amounts_and_days_are_numbers_whatever_their_type(name: str, values: list[Any]) -> None:
    """What was never seen lies between what was."""
    frame, labels = pd.DataFrame({"x": values}), [0] * 20 + [1] * 20
    fitted = fit_baseline(name, frame.iloc[::2], labels[::2])
    asked = [row for row in range(1, 40, 2) if values[row] != "unknown"]
    assert auc([labels[row] for row in asked], fitted.predict_proba(frame.iloc[asked]), [0, 1]) > 0.95


def test_folds_are_as_many_as_rows_of_a_class_allow() -> None:
    data = table(classes=2)
    for shots, folds in ((2, None), (4, 2), (6, 3), (40, 4)):
        drawn = draw_shots(data.labels, shots)
        model = fit_baseline("logistic", data.frame.iloc[drawn], data.labels.iloc[drawn].tolist())[-1]
        if folds is None:
            assert GRIDS["logistic"]["C"][0] == model.C
        else:
            assert model.n_splits_ == folds


def test_scikit_learn_stands_in_for_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightgbm" else real(name))
    assert label_of("boosting") == "gradient boosting (scikit-learn's)"
    data = table()
    drawn = draw_shots(data.labels, 16)
    model = fit_baseline("boosting", data.frame.iloc[drawn], data.labels.iloc[drawn].tolist())[-1]
    assert type(model.best_estimator_).__name__ == "HistGradientBoostingClassifier"


def test_what_can_not_be_fitted() -> None:
    data = table()
    with pytest.raises(ConfigError, match="expected one of logistic, forest, boosting, found 'tree'"):
        fit_baseline("tree", data.frame, data.labels.tolist())
    with pytest.raises(DataError, match="expected rows of two classes to learn from, found 1"):
        fit_baseline("logistic", data.frame[:3], ["low"] * 3)
