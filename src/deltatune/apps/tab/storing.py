"""Fitted classifiers as files: the delta in Hugging Face PEFT's layout, and all else as JSON. Nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

import deltatune as dt
from deltatune import methods
from deltatune.apps.tab.serialize import FittedSerializer, Serializer
from deltatune.apps.tab.task import Task
from deltatune.calibration import Calibration
from deltatune.errors import DataError, FileFormatError
from deltatune.io.atomic import atomic_files

if TYPE_CHECKING:
    from deltatune.apps.tab.estimator import RowClassifier

__all__ = ["FILE", "load", "save"]

FILE = "classifier.json"
FORMAT = 1
LABELS = (str, int, float, bool)

Classifier = TypeVar("Classifier", bound="RowClassifier")


def save(classifier: RowClassifier, folder: Path) -> Path:
    """Write a fitted classifier; see `RowClassifier.save`."""
    about = json.dumps({"format": FORMAT, **_described(classifier)}, indent=2, ensure_ascii=False) + "\n"
    with atomic_files(folder) as scratch:
        if classifier.delta_ is not None:
            with classifier._shared.using(classifier.delta_):
                dt.save(classifier.delta_, scratch)
        (scratch / FILE).write_text(about, encoding="utf-8")
    return folder


def load(kind: type[Classifier], folder: Path, device: str | None) -> Classifier:
    """Read what `save` wrote; see `RowClassifier.load`."""
    file = folder / FILE
    if not file.is_file():
        raise FileFormatError(f"{folder}: expected a fitted classifier, found no {FILE} there; check the path")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if about["format"] != FORMAT or about["kind"] != kind.__name__:
            found = f"format {about['format']} of {about['kind']}"
            raise FileFormatError(
                f"{file}: expected format {FORMAT} of {kind.__name__}, found {found}; load it as that"
            )
        classifier = _restored(kind, about, device)
        trained = bool(about["trained"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"{file}: expected a fitted classifier, found {error!r}; save it again") from None
    classifier._open()
    if trained:
        classifier.delta_ = classifier._shared.load(folder)
    return classifier


def _described(classifier: RowClassifier) -> dict[str, Any]:
    calibration = classifier.calibration_
    task = getattr(classifier, "task_", None)
    return {
        "kind": type(classifier).__name__,
        "settings": _settings(classifier),
        "classes": _plain(classifier.classes_),
        "columns": classifier.n_features_in_,
        "names": getattr(classifier, "feature_names_in_", np.array([])).tolist(),
        "serializer": classifier.serializer_.to_dict(),
        "task": None if task is None else {"question": task.question, "answers": [*task.answers.values()]},
        "calibration": None if calibration is None else calibration.to_dict(),
        "trained": classifier.delta_ is not None,
        "losses": classifier.losses_,
    }


def _settings(classifier: RowClassifier) -> dict[str, Any]:
    """The constructor's arguments as plain data, but for the device, which is of this machine."""
    settings = {name: value for name, value in classifier.get_params(deep=False).items() if name != "device"}
    method, serializer, answers = (settings.get(name) for name in ("method", "serializer", "answers"))
    seed = settings["random_state"]
    settings = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
    return settings | {
        "method": None if method is None else method.to_config(),
        "serializer": None if serializer is None else serializer.to_dict(),
        "random_state": int(seed) if isinstance(seed, (int, np.integer)) else None,
        **({"answers": None if answers is None else _pairs(answers)} if "answers" in settings else {}),
    }


def _restored(kind: type[Classifier], about: Mapping[str, Any], device: str | None) -> Classifier:
    settings = dict(about["settings"])
    if settings["method"] is not None:
        settings["method"] = methods.from_config(settings["method"])
    if settings["serializer"] is not None:
        settings["serializer"] = Serializer.from_dict(settings["serializer"])
    if settings.get("answers") is not None:
        settings["answers"] = dict(zip(*settings["answers"], strict=True))
    classifier = kind(**settings, device=device)
    values, dtype = about["classes"]
    classifier.classes_ = np.array(values, dtype=dtype)
    classifier.n_features_in_ = int(about["columns"])
    if about["names"]:
        classifier.feature_names_in_ = np.array(about["names"], dtype=object)
    classifier.serializer_ = FittedSerializer.from_dict(about["serializer"])
    if (task := about["task"]) is not None:
        said = dict(zip(classifier.classes_.tolist(), task["answers"], strict=True))
        classifier.task_ = Task(task["question"], said, settings["order"])
    classifier.delta_, classifier.losses_ = None, list(about["losses"])
    calibration = about["calibration"]
    if calibration is not None:
        offsets = calibration["offsets"]
        calibration = Calibration(calibration["temperature"], None if offsets is None else tuple(offsets))
    classifier.calibration_ = calibration
    return classifier


def _plain(classes: npt.NDArray[Any]) -> tuple[list[Any], str]:
    """Labels as JSON has them, and their type."""
    return _labels(classes.tolist()), classes.dtype.str if classes.dtype != object else "object"


def _pairs(answers: Mapping[Any, str]) -> tuple[list[Any], list[str]]:
    """Labels and answers apart, for JSON turns the keys of an object into text."""
    return _labels([label.item() if isinstance(label, np.generic) else label for label in answers]), [*answers.values()]


def _labels(labels: list[Any]) -> list[Any]:
    for label in labels:
        if not isinstance(label, LABELS):
            raise DataError(f"classes: expected text, numbers or truth values, found {label!r}; give others to save")
    return labels
