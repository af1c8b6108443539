"""What a model is judged by, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deltatune.errors import ConfigError

__all__ = ["METRICS", "better", "chosen_metric", "quality_of"]

METRICS: dict[str, bool] = {
    "accuracy": True,
    "macro_f1": True,
    "loss": False,
    "perplexity": False,
    "token_accuracy": True,
}
"""A metric of the evaluation to whether more of it is better."""

_OF_CLASSIFIERS = ("accuracy", "macro_f1", "loss")
_OF_LANGUAGE_MODELS = ("loss", "perplexity", "token_accuracy")


def chosen_metric(name: str | None, *, classifies: bool) -> str:
    """The metric to compare by. Default: accuracy for a classifier, else the loss.

    Raises:
        ConfigError: the evaluation of such a model does not give it.
    """
    known = _OF_CLASSIFIERS if classifies else _OF_LANGUAGE_MODELS
    if name is None:
        return known[0]
    if name not in known:
        kind = "a classifier" if classifies else "a language model"
        raise ConfigError(f"metric: expected one of {', '.join(known)} for {kind}, found {name!r}; choose one of them")
    return name


def better(metric: str, one: float, other: float) -> bool:
    """Whether `one` is a better value of the metric than `other`."""
    return one > other if METRICS[metric] else one < other


def quality_of(metrics: Mapping[str, Any], metric: str) -> float | None:
    """The value of a metric in a run's results; `None` if it is no number, as after a run that diverged."""
    value = metrics.get(f"eval_{metric}")
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
