"""What tabular data are usually classified by: logistic regression, a random forest, gradient boosting.

Settings are chosen on the shots alone, as Hegselmann et al. (2023, https://arxiv.org/abs/2210.10723) do: by AUC, in
cross-validation of four folds, or of as many as the smallest class has rows. With one row of a class there is nothing
to validate on, and the first value of each setting is taken. The grids are `GRIDS`:

- Logistic regression has the paper's eight values of C, with the l2 penalty; the paper tries l1 too.
- A random forest is not among the paper's.
- Gradient boosting has 8 points of the paper's 4,800, each with leaves of one row and of 20, LightGBM's default, and
  histogram bins of one row. With the defaults, as in the paper, trees have no split below 40 shots, and every row gets
  the same probability.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype, is_timedelta64_dtype

from deltatune.apps.tab.columns import Kind, columns_of
from deltatune.apps.tab.serialize.values import number_of
from deltatune.errors import ConfigError, DataError

__all__ = ["BASELINES", "GRIDS", "fit_baseline", "label_of"]

BASELINES = ("logistic", "forest", "boosting")

FOLDS = 4

_LEAVES, _RATES, _SMALLEST = [31, 2, 8, 128], [0.1, 0.03], [1, 20]

GRIDS: dict[str, dict[str, list[Any]]] = {
    "logistic": {"C": [1.0, 1e-1, 10.0, 1e-2, 100.0, 1e-3, 1e-4, 1e-5]},
    "forest": {"min_samples_leaf": [1, 2, 4], "max_features": ["sqrt", 0.5]},
    "boosting": {"num_leaves": _LEAVES, "learning_rate": _RATES, "min_child_samples": _SMALLEST},
    "boosting without LightGBM": {
        "max_leaf_nodes": _LEAVES,
        "learning_rate": _RATES,
        "min_samples_leaf": _SMALLEST,
    },
}
"""The values that are tried; the first of each is taken where nothing tells them apart."""


def label_of(name: str) -> str:
    """What a baseline is, such as "gradient boosting (LightGBM)".

    Raises:
        ConfigError: there is no such baseline.
    """
    return _known(name)[0]


def fit_baseline(name: str, frame: pd.DataFrame, labels: Sequence[Any], *, seed: int = 0) -> Any:
    """Fit a baseline to the shots, its settings chosen by cross-validation where there are rows for that.

    What a column holds is told as for a language model, so amounts and days that a table has as text are numbers here
    too. Categories become one column for each value, those that the shots do not have are ignored later; numbers are
    scaled for logistic regression; what is missing becomes the median, or a category of its own. This is settled once,
    on all shots, and does not look at the classes.

    Args:
        name: one of `BASELINES`.
        frame: the rows.
        labels: the class of each.
        seed: of the folds and of what is random in the model. Default: 0.

    Returns:
        A fitted scikit-learn classifier of frames with the same columns.

    Raises:
        ConfigError: there is no such baseline.
        DataError: there are no rows of two classes.
    """
    from sklearn.pipeline import Pipeline

    _, make, grid = _known(name)
    counts = Counter(labels)
    if len(counts) < 2:
        raise DataError(f"{name}: expected rows of two classes to learn from, found {len(counts)}; add shots")
    model = _tuned(make(seed), GRIDS[grid], counts, seed)
    return Pipeline([("columns", _columns(frame, scaled=name == "logistic")), ("model", model)]).fit(frame, labels)


def _tuned(model: Any, grid: Mapping[str, list[Any]], counts: Mapping[Any, int], seed: int) -> Any:
    """The model with its settings to be chosen in cross-validation, or where that can not be with the first ones."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = min(FOLDS, *counts.values())
    if folds < 2:
        return model.set_params(**{setting: values[0] for setting, values in grid.items()})
    return GridSearchCV(
        model,
        dict(grid),
        scoring="roc_auc" if len(counts) == 2 else "roc_auc_ovo",
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        error_score="raise",
    )


def _known(name: str) -> tuple[str, Callable[[int], Any], str]:
    """A baseline's label, what makes it of a seed, and its grid."""
    has_lightgbm = importlib.util.find_spec("lightgbm") is not None
    table: dict[str, tuple[str, Callable[[int], Any], str]] = {
        "logistic": ("logistic regression", _logistic, "logistic"),
        "forest": ("random forest", _forest, "forest"),
        "boosting": ("gradient boosting (LightGBM)", _lightgbm, "boosting")
        if has_lightgbm
        else ("gradient boosting (scikit-learn's)", _histogram, "boosting without LightGBM"),
    }
    if name not in table:
        raise ConfigError(f"baseline: expected one of {', '.join(table)}, found {name!r}; choose one of them")
    return table[name]


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", max_iter=1000, random_state=seed)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(class_weight="balanced", n_estimators=100, random_state=seed)


def _lightgbm(seed: int) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(class_weight="balanced", min_data_in_bin=1, n_jobs=1, random_state=seed, verbosity=-1)


def _histogram(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(class_weight="balanced", early_stopping=False, random_state=seed)


def _columns(frame: pd.DataFrame, *, scaled: bool) -> Any:
    """The columns of a frame as numbers."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numbers: dict[Kind, list[str | int]] = {}
    words = []
    for column in columns_of(frame):
        if column.kind in _READERS or _is_numeric(frame[column.name]):
            numbers.setdefault(column.kind, []).append(column.name)
        else:
            words.append(column.name)

    def filled(read: Callable[[pd.Series], pd.Series]) -> Any:
        return make_pipeline(
            FunctionTransformer(_numbers, kw_args={"read": read}),
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler() if scaled else "passthrough",
        )

    one_hot = make_pipeline(
        FunctionTransformer(_words),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    return ColumnTransformer(
        [
            *((kind, filled(_READERS.get(kind, _plain)), names) for kind, names in numbers.items()),
            ("words", one_hot, words),
        ]
    )


def _is_numeric(column: pd.Series) -> bool:
    """Whether a column's type alone says that it holds numbers, truth values, times or spans of time."""
    kinds = (is_numeric_dtype, is_datetime64_any_dtype, is_timedelta64_dtype)
    return any(kind(column.dtype) for kind in kinds)


def _numbers(frame: pd.DataFrame, read: Callable[[pd.Series], pd.Series]) -> Any:
    """Every column as numbers, NaN for what is none or is infinite."""
    found = frame.apply(read).to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(found), found, np.nan)


def _plain(column: pd.Series) -> pd.Series:
    """Numbers as they are, truth values as 0 and 1, times in days, and what a text spells."""
    if is_datetime64_any_dtype(column.dtype):
        column = column - pd.Timestamp(0, tz=getattr(column.dtype, "tz", None))
    if is_timedelta64_dtype(column.dtype):
        column = column / pd.Timedelta(days=1)
    return column.astype("Float64") if is_numeric_dtype(column.dtype) else column.map(number_of).astype("Float64")


def _days(column: pd.Series) -> pd.Series:
    """Days, be they texts."""
    if not is_datetime64_any_dtype(column.dtype):
        column = pd.to_datetime(column.astype(str), format="ISO8601", errors="coerce", utc=True)
    return _plain(column)


_READERS: dict[Kind, Callable[[pd.Series], pd.Series]] = {"integer": _plain, "decimal": _plain, "date": _days}
"""How the columns become numbers whose values are some, whatever their type."""


def _words(frame: pd.DataFrame) -> Any:
    """Every value as text: what is missing is a value too, and a column may mix kinds of values."""
    return frame.astype(object).where(frame.notna(), "missing").astype(str).to_numpy(dtype=object)
