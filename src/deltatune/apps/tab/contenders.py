"""What is evaluated, from text such as ``tabllm:base=smollm2,method=lora``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from deltatune.apps.tab.baselines import BASELINES, fit_baseline, label_of
from deltatune.apps.tab.shots import draw_shots
from deltatune.errors import ConfigError
from deltatune.methods.written import Written, read_methods

if TYPE_CHECKING:
    import pandas as pd

    from deltatune.apps.tab.data import TabData
    from deltatune.apps.tab.estimator import RowClassifier
    from deltatune.apps.tab.serialize import Serializer

__all__ = [
    "MODELS",
    "Classifier",
    "Contender",
    "Lesson",
    "ask_as_told",
    "classifier",
    "contenders",
    "fit_classifier",
    "read_classifier",
    "with_units",
]

MODELS = ("tabllm", "encoder", *BASELINES)
"""What can be evaluated."""


class Classifier(Protocol):
    """A fitted classifier."""

    @property
    def classes_(self) -> Any:
        """The classes."""

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, a row for each row, in their order."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a classifier may learn from.

    Args:
        data: the data set: what to ask, and what to say.
        frame: the shots; without any, rows whose classes it may not learn from, so that it knows their columns.
        labels: the class of each row.
        shots: how many there are.
        seed: of what is random.
    """

    data: TabData
    frame: pd.DataFrame
    labels: pd.Series
    shots: int
    seed: int

    @classmethod
    def draw(cls, data: TabData, shots: int | None, seed: int, among: Sequence[int] | None = None) -> Lesson:
        """Draw shots, as many of each class.

        Args:
            data: the data set.
            shots: how many; `None` for all.
            seed: of the draw and of what is random later.
            among: the numbers of the rows to draw from. Default: all.
        """
        rows = range(len(data.labels)) if among is None else among
        frame, labels = data.frame.iloc[rows], data.labels.iloc[rows]
        drawn = draw_shots(labels, shots, seed)
        if not len(drawn):
            return cls(data, frame, labels, 0, seed)
        return cls(data, frame.iloc[drawn], labels.iloc[drawn], len(drawn), seed)


@dataclass(frozen=True, slots=True)
class Contender:
    """A model that is evaluated.

    Args:
        label: its name in the report, with its settings.
        fit: makes a fitted classifier.
        is_baseline: whether the others are held against it.
        needs_shots: whether it knows nothing without.
    """

    label: str
    fit: Callable[[Lesson], Classifier]
    is_baseline: bool = False
    needs_shots: bool = True


def contenders(models: str | Iterable[str]) -> list[Contender]:
    """Read what is to be evaluated.

    Args:
        models: names of `MODELS`, in one text with commas or one in each. "tabllm" and "encoder" may have settings of
            their classifiers after a colon: ``"tabllm:base=smollm2,method=lora,steps=100"``. Values are YAML; a method
            is a key of the table of methods or a mapping, a serializer a style or a mapping.

    Raises:
        ConfigError: a model or a setting is unknown, or a model is named twice.
    """
    found = [_contender(written) for written in read_methods(models, MODELS)]
    labels = [each.label for each in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise ConfigError(f"models: expected each once, found {twice!r} twice; leave one out")
    return found


def read_classifier(model: str) -> RowClassifier:
    """An unfitted classifier of rows as text, from text such as ``tabllm:steps=100``; see :func:`contenders`.

    Raises:
        ConfigError: it is none, or several.
    """
    found = read_methods(model, MODELS)
    if len(found) > 1:
        raise ConfigError(f"model: expected one, found {len(found)}; leave out {found[1].text}")
    return classifier(found[0].key, found[0].settings)


def classifier(name: str, settings: Mapping[str, Any]) -> RowClassifier:
    """An unfitted classifier of rows as text.

    Args:
        name: "tabllm" or "encoder".
        settings: of it; those given as text or plain data are read.

    Raises:
        ConfigError: there is no such classifier or setting.
    """
    from deltatune.apps.tab.classifier import TabLLMClassifier
    from deltatune.apps.tab.heads import EncoderClassifier

    kinds: dict[str, Callable[..., RowClassifier]] = {"tabllm": TabLLMClassifier, "encoder": EncoderClassifier}
    if name not in kinds:
        raise ConfigError(f"model: expected {' or '.join(kinds)}, found {name!r}; choose one of them")
    known = kinds[name]().get_params(deep=False)
    if "random_state" in settings:
        raise ConfigError(f"{name}: expected no random_state, since the seed gives it, found one; drop it")
    if unknown := [setting for setting in settings if setting not in known]:
        raise ConfigError(f"{name}: expected settings among {', '.join(known)}, found {unknown[0]!r}; correct it")
    return kinds[name](**{setting: _READ.get(setting, _as_it_is)(value) for setting, value in settings.items()})


def fit_classifier(model: RowClassifier, lesson: Lesson) -> RowClassifier:
    """Fit a classifier; what the data set has to say counts where the classifier's settings say nothing.

    Args:
        model: an unfitted one, which is changed and returned.
        lesson: what to learn from. Without shots nothing is trained.
    """
    ask_as_told(model, lesson.data)
    known = model.get_params(deep=False)
    serializer = with_units(known["serializer"], lesson.data.units).permuting(lesson.data.frame)
    model.set_params(random_state=lesson.seed, serializer=serializer)
    if not lesson.shots:
        # A temperature would be fitted to classes.
        model.set_params(steps=0, calibrate=known["calibrate"] and "contextual")
    return model.fit(lesson.frame, lesson.labels)


def ask_as_told(model: RowClassifier, data: TabData) -> None:
    """Give a classifier the question and the answers of a data set, where its settings say nothing of them."""
    known, own = model.get_params(deep=False), {"question": data.question, "answers": data.answers}
    model.set_params(**{name: value for name, value in own.items() if name in known and known[name] is None})


def _contender(written: Written) -> Contender:
    name, settings = written.key, written.settings
    if name not in MODELS:
        raise ConfigError(
            f"models: expected some of {', '.join(MODELS)}, found the method {name!r}; write tabllm:method={name}"
        )
    if name in BASELINES:
        if settings:
            raise ConfigError(f"models: {written.text}: expected no settings, found {next(iter(settings))}; drop them")
        return Contender(label_of(name), lambda lesson: _baseline(name, lesson), is_baseline=True)
    classifier(name, settings).check()  # a slip is told before anything runs

    def fit(lesson: Lesson) -> Classifier:
        return fit_classifier(classifier(name, settings), lesson)

    return Contender(written.label, fit, needs_shots=name == "encoder")


def _baseline(name: str, lesson: Lesson) -> Classifier:
    found: Classifier = fit_baseline(name, lesson.frame, lesson.labels.tolist(), seed=lesson.seed)
    return found


def with_units(serializer: Serializer | None, units: Mapping[str, str]) -> Serializer:
    """Units of the data set, but for those that the serializer has itself."""
    from deltatune.apps.tab.serialize import Serializer

    found = serializer or Serializer()
    return replace(found, units={**units, **found.units})


def _method(value: Any) -> Any:
    from deltatune.methods import as_method

    return as_method({"method": value} if isinstance(value, str) else value)


def _serializer(value: Any) -> Any:
    from deltatune.apps.tab.serialize import Serializer

    if isinstance(value, Serializer):
        return value
    return Serializer.from_dict({"style": value} if isinstance(value, str) else value)


def _as_it_is(value: Any) -> Any:
    return value


_READ: dict[str, Callable[[Any], Any]] = {"method": _method, "serializer": _serializer}
