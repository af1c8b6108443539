"""What the classifiers of rows as text share: scikit-learn's interface, from frames to texts and from scores to
classes.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from deltatune.apps.tab.serialize import FittedSerializer, Serializer
from deltatune.apps.tab.shared import SharedBase
from deltatune.apps.tab.task import Task
from deltatune.apps.tab.training import Scorer, Training, train
from deltatune.attachment.delta import Delta
from deltatune.calibration import Calibration, contextual, temperature
from deltatune.errors import ConfigError, DataError, DeltaError
from deltatune.io.bases import Dtype
from deltatune.methods.base import Method
from deltatune.methods.lora import LoRA

__all__ = ["Calibrating", "RowClassifier"]

Calibrating: TypeAlias = Literal["temperature", "contextual", "auto"]

METHOD = LoRA(r=8, alpha=16, targets=("all_linear",))
"""What is attached if nothing else is asked for."""
CONTENT_FREE = ("N/A", "[MASK]", "")
"""Texts that say nothing of a row (Zhao et al. 2021, https://arxiv.org/abs/2102.09690, section 5)."""
HELD_BACK = 4
"""One of so many shots is held back for a temperature, where each class has twice as many."""

_Self = TypeVar("_Self", bound="RowClassifier")


class RowClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier that reads rows as text. Its classes are `TabLLMClassifier` and `EncoderClassifier`."""

    base: str
    method: Method | None
    serializer: Serializer | None
    steps: int | None
    learning_rate: float | None
    batch_size: int
    calibrate: Calibrating | None
    max_tokens: int
    random_state: Any
    device: str | None
    dtype: Dtype

    classes_: npt.NDArray[Any]
    delta_: Delta | None
    losses_: list[float]
    calibration_: Calibration | None
    serializer_: FittedSerializer
    _shared: SharedBase

    # What the kinds of classifier differ in.

    @abstractmethod
    def _begin(self, target: str | None) -> None:
        """Settle what is asked, given `classes_` and the name of the column that they come from, and get the base."""

    def task(self, labels: Sequence[Any], target: str | None) -> Task | None:
        """What is asked about a row; `None` where nothing is.

        Args:
            labels: the classes, sorted.
            target: the name of the column that they come from.
        """
        return None

    @abstractmethod
    def _open(self) -> None:
        """Get the base for `classes_`."""

    @abstractmethod
    def _scorer(self) -> Scorer:
        """The model as it scores classes."""

    def _labels(self, y: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The classes, and of each row its number."""
        found = np.asarray(validate_data(self, X="no_validation", y=y))
        kind = type_of_target(found, input_name="y")
        if kind not in ("binary", "multiclass"):
            raise DataError(f"y: Unknown label type: {kind}; expected classes, found other values; cut them into bins")
        classes, codes = np.unique(found, return_inverse=True)
        return classes, codes

    # scikit-learn's interface.

    def fit(self: _Self, X: Any, y: Any) -> _Self:
        """Learn from shots; with `steps=0`, from their columns and classes alone.

        Args:
            X: the rows, a frame or an array, ``[rows, columns]``. What is missing may be missing.
            y: the class of each row.

        Raises:
            ConfigError: a setting is out of range, or the base or the method is not there.
            DataError: `y` holds no classes, or fewer than two.
        """
        classes, codes = self._labels(y)
        frame = self._frame(X, reset=True)
        check_consistent_length(frame, y)
        if len(classes) < 2:
            raise DataError(f"y: expected at least 2 classes, found {len(classes)} class; add rows of others")
        training = self._training()
        learned, held = self._split(codes, len(classes), training)
        name = getattr(y, "name", None)
        if hasattr(self, "calibration_"):  # what was fitted before is so no more, should this fail
            del self.calibration_
        self.classes_, self.delta_, self.losses_ = classes, None, []
        self._begin(None if name is None else str(name))
        steps = training.steps_for(len(frame))
        with self._shared.lock:
            serializer = (self.serializer or Serializer()).fit(frame, codes.tolist() if steps else None)
            self.serializer_ = serializer.within(self._room(), self._count, frame)
            texts = self._texts(frame)
            if steps:
                own = [texts[row] for row in learned]
                method = self.method or METHOD
                self.delta_, self.losses_ = train(self._scorer(), own, codes[learned].tolist(), method, training)
            self.calibration_ = self._calibrated([texts[row] for row in held], codes[held].tolist())
        return self

    def check(self) -> None:
        """See that the settings can be used, as far as that is known before anything is loaded.

        Raises:
            ConfigError: they can not.
        """
        self._training()

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The likeliest class of each row."""
        chosen = self.predict_proba(X).argmax(axis=1)  # first, for it says if nothing was fitted
        found: npt.NDArray[Any] = self.classes_[chosen]
        return found

    def predict_proba(self, X: Any) -> npt.NDArray[Any]:
        """The probability of each class for each row, ``[rows, classes]``, in the order of `classes_`."""
        check_is_fitted(self)
        scores = self._scores(self._texts(self._frame(X, reset=False)))
        return (self.calibration_ or Calibration())(scores).numpy()

    def save(self, folder: str | Path) -> Path:
        """Write the delta in Hugging Face PEFT's layout, and all else as JSON. All or nothing.

        Raises:
            NotFittedError: it was not fitted.
            DataError: the classes, or a setting, can not be written as JSON.
        """
        from deltatune.apps.tab.storing import save

        check_is_fitted(self)
        return save(self, Path(folder))

    @classmethod
    def load(cls: type[_Self], folder: str | Path, *, device: str | None = None) -> _Self:
        """The fitted classifier that :meth:`save` wrote.

        Args:
            folder: where.
            device: as `dt.load_base` takes it. Default: the GPU if there is one.

        Raises:
            FileFormatError: there is none, it is damaged, or of another kind.
            BaseMismatchError: its base is another one here.
        """
        from deltatune.apps.tab.storing import load

        return load(cls, Path(folder), device)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "calibration_")

    def __getstate__(self) -> Any:
        if hasattr(self, "_shared"):
            raise DeltaError(f"{type(self).__name__}: expected an unfitted one to pickle, found it fitted; use save()")
        return super().__getstate__()

    # Between rows and scores.

    def _frame(self, X: Any, *, reset: bool) -> pd.DataFrame:
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, reset=reset, skip_check_array=True)
            if not X.shape[0] or not X.shape[1]:
                raise DataError(f"X: expected rows and columns, found the shape {X.shape}; give some")
            return X if reset or hasattr(self, "feature_names_in_") else X.set_axis(self._names(), axis=1)
        array = check_array(X, dtype=None, ensure_all_finite="allow-nan", estimator=self, input_name="X")
        validate_data(self, array, reset=reset, skip_check_array=True)
        names = [f"x{number}" for number in range(array.shape[1])]
        # Rows without names are told by their places, as in scikit-learn, which warns of it.
        return pd.DataFrame(array, columns=names if reset else self._names())

    def _names(self) -> list[str | int]:
        """What the columns were called that it was fitted to."""
        return [column.name for column in self.serializer_.columns]

    def _texts(self, frame: pd.DataFrame) -> list[str]:
        """The text of each row, cut to what the model reads."""
        texts, room = list(self.serializer_.texts(frame)), self._room()
        tokenizer = self._shared.base.tokenizer
        long = [row for row, text in enumerate(texts) if self._count(text) > room]
        for row in long:
            ids = tokenizer(texts[row], add_special_tokens=False, verbose=False)["input_ids"]
            texts[row] = str(tokenizer.decode(ids[:room]))
        if long:
            warnings.warn(f"{len(long)} of {len(texts)} rows are longer than {room} tokens; cut there", stacklevel=3)
        return texts

    def _count(self, text: str) -> int:
        return len(self._shared.base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _room(self) -> int:
        """How many tokens a row's text may have."""
        positions = getattr(self._shared.base.model.config, "max_position_embeddings", None) or self.max_tokens
        frame = self._scorer().frame
        if (room := min(self.max_tokens, positions) - frame) < 1:
            raise ConfigError(f"max_tokens: expected more than the {frame} of the question, found {room + frame}")
        return int(room)

    def _scores(self, texts: Sequence[str]) -> Tensor:
        with self._shared.using(self.delta_):
            return self._scorer().scores(texts)

    # Learning.

    def _training(self) -> Training:
        if self.calibrate not in (None, *get_args(Calibrating)):
            known = ", ".join(get_args(Calibrating))
            raise ConfigError(f"calibrate: expected one of {known} or None, found {self.calibrate!r}; choose one")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        rate = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        return Training(self.steps, self.batch_size, seed=seed, **rate)

    def _split(
        self, codes: npt.NDArray[Any], classes: int, training: Training
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The shots to learn from, and those that are held back for a temperature."""
        rows, least = np.arange(len(codes)), int(np.bincount(codes, minlength=classes).min())
        enough = least >= 2 * HELD_BACK
        if self.calibrate == "temperature" and not enough:
            expected = f"{2 * HELD_BACK} shots of each class for a temperature"
            raise DataError(f"calibrate: expected {expected}, found {least}; add shots or choose 'contextual'")
        if self.calibrate not in ("temperature", "auto") or not enough:
            return rows, rows[:0]
        learned, held = train_test_split(rows, test_size=1 / HELD_BACK, stratify=codes, random_state=training.seed)
        return learned, held

    def _calibrated(self, texts: Sequence[str], codes: Sequence[int]) -> Calibration | None:
        if self.calibrate is None:
            return None
        return temperature(self._scores(texts), codes) if texts else contextual(self._scores(CONTENT_FREE))
