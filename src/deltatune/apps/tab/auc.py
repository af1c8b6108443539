r"""The area under the ROC curve, of two classes and of several.

Of two classes it is the probability that a row of the one is given a higher probability of it than a row of the other,
ties counted half. Of several it is the mean over all pairs of classes (Hand and Till 2001,
https://doi.org/10.1023/A:1010920819831):

.. math:: M = \frac{2}{c(c-1)} \sum_{i<j} \frac{A(i \mid j) + A(j \mid i)}{2}

where :math:`A(i \mid j)` is the area among the rows of the classes i and j, ranked by the probability of i. It does not
depend on how frequent the classes are; 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deltatune.errors import DataError

__all__ = ["auc"]


def auc(truth: Sequence[Any], probabilities: Any, classes: Sequence[Any]) -> float:
    """The area under the ROC curve; of several classes, macro one-vs-one.

    Args:
        truth: the class of each row.
        probabilities: a row for each, a column for each class; a row adds up to one.
        classes: the classes, in the order of the columns.

    Raises:
        DataError: there are fewer than two classes, a class has no row or a row an unknown class, or the probabilities
            are none.
    """
    import numpy as np
    from sklearn.metrics import roc_auc_score

    found = np.asarray(probabilities, dtype=np.float64)
    codes = _codes(truth, classes)
    if found.shape != (len(codes), len(classes)):
        raise DataError(
            f"probabilities: expected {len(codes)} rows of {len(classes)} classes, found the shape {found.shape}; "
            "give one for each row and class"
        )
    if not np.isfinite(found).all() or not np.allclose(found.sum(axis=1), 1, atol=1e-3):
        raise DataError("probabilities: expected rows that add up to one, found others; use predict_proba")
    if len(classes) == 2:
        return float(roc_auc_score(codes, found[:, 1]))
    found /= found.sum(axis=1, keepdims=True)
    return float(roc_auc_score(codes, found, multi_class="ovo", average="macro", labels=range(len(classes))))


def _codes(truth: Sequence[Any], classes: Sequence[Any]) -> list[int]:
    """The number of each row's class."""
    if len(classes) < 2:
        raise DataError(f"classes: expected at least two, found {len(classes)}; the area is between two")
    numbers = {label: number for number, label in enumerate(classes)}
    if strange := [label for label in truth if label not in numbers]:
        raise DataError(f"truth: expected the classes {_names(classes)}, found {strange[0]!r}; drop such rows")
    codes = [numbers[label] for label in truth]
    if missing := [label for label, number in numbers.items() if number not in codes]:
        raise DataError(f"truth: expected rows of every class, found none of {_names(missing)}; test on more rows")
    return codes


def _names(labels: Sequence[Any]) -> str:
    return ", ".join(map(str, labels))
