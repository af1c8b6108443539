"""What each column says about the class, estimated on few rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["information"]

ROWS = 2000  # more do not change the order of columns
NEIGHBOURS = 3


def information(
    columns: Sequence[Sequence[Any]], numeric: Sequence[bool], labels: npt.ArrayLike
) -> list[float] | list[None]:
    r"""The mutual information of each column with the class, in nats.

    .. math:: I(X; Y) = \sum_{x, y} p(x, y) \log \frac{p(x, y)}{p(x)\,p(y)}

    Numbers are compared by their nearest neighbours (Ross 2014, https://doi.org/10.1371/journal.pone.0087357). For
    words, what is expected by chance is taken off (Vinh et al. 2010, https://jmlr.org/papers/v11/vinh10a.html):
    otherwise names, which are all different, would say the most.

    Args:
        columns: for each its values: numbers with NaN where they are missing, of which infinite ones count
            as missing, or words with ``None``.
        numeric: whether each is numbers.
        labels: the class of each row.

    Returns:
        A number for each column; ``None`` for all if every class has one row only, or there is just one class.
    """
    from sklearn.feature_selection import mutual_info_classif

    y = pd.factorize(np.asarray(labels, dtype=object))[0]
    if len(y) > ROWS:
        chosen = np.random.default_rng(0).choice(len(y), ROWS, replace=False)
        y = y[chosen]
        columns = [[column[row] for row in chosen] for column in columns]
    counts = np.bincount(y)
    if len(counts) < 2 or counts.max() < 2:
        return [None] * len(columns)
    neighbours = int(min(NEIGHBOURS, counts.max() - 1))
    found = []
    for column, is_number in zip(columns, numeric, strict=True):
        if is_number:
            numbers = pd.Series(column, dtype=float).replace([np.inf, -np.inf], np.nan)
            filled = numbers.fillna(numbers.median()).fillna(0.0).to_numpy()[:, None]
            estimate = mutual_info_classif(filled, y, discrete_features=False, n_neighbors=neighbours, random_state=0)[
                0
            ]
        else:
            estimate = _beyond_chance(pd.factorize(pd.Series(column, dtype=object), use_na_sentinel=False)[0], y)
        found.append(max(float(estimate), 0.0))
    return found


def _beyond_chance(words: npt.NDArray[np.intp], y: npt.NDArray[np.intp]) -> float:
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information, mutual_info_score

    table = contingency_matrix(words, y, sparse=True)
    return float(mutual_info_score(None, None, contingency=table) - expected_mutual_information(table, len(y)))
