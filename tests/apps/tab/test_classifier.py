"""The language model as a scikit-learn classifier."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import deltatune as dt
from deltatune.apps.tab import shared
from deltatune.apps.tab.classifier import TabLLMClassifier
from deltatune.apps.tab.serialize import Serializer
from deltatune.apps.tab.shared import shared_base
from deltatune.calibration import Calibration
from deltatune.errors import BaseMismatchError, ConfigError, DataError, DeltaError, FileFormatError
from tests.models.tools import assert_bit_identical, fingerprint, values

from . import bases

X, Y = bases.rows()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bases.llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def learned(llama: str) -> TabLLMClassifier:
    return unfitted(llama, steps=60).fit(X, Y)


def unfitted(base: str, **settings: Any) -> TabLLMClassifier:
    return TabLLMClassifier(base, **{"steps": 2, "learning_rate": 1e-2, "method": dt.LoRA(r=4), **settings})


# What it learns.


def test_it_learns_what_it_is_shown(learned: TabLLMClassifier) -> None:
    assert learned.classes_.tolist() == [0, 1]
    assert learned.score(X, Y) == 1
    assert len(learned.losses_) == 60
    assert learned.task_.question == "What is the warmth: 0 or 1?"


def test_probabilities_are_the_softmax_of_mean_likelihoods(learned: TabLLMClassifier) -> None:
    """Counted anew: a prompt and an answer at a time."""
    with learned._shared.using(learned.delta_) as base, torch.no_grad():
        prompts = learned.task_.prompts(base, learned.serializer_.texts(X))
        answers = learned.task_.answer_tokens(base)
        scores = [[bases.likelihoods(base.model, p, a).mean().item() for a in answers] for p in prompts]
    wanted = torch.tensor(scores, dtype=torch.double).softmax(dim=-1).numpy()
    np.testing.assert_allclose(learned.predict_proba(X), wanted, atol=1e-5)


def test_without_steps_it_is_the_base(llama: str) -> None:
    found = unfitted(llama, steps=0).fit(X, Y)
    assert found.delta_ is None
    assert found.losses_ == []
    np.testing.assert_array_equal(unfitted(llama, steps=0).fit(X, 1 - Y).predict_proba(X), found.predict_proba(X))


def test_without_steps_answers_make_up_for_labels(llama: str) -> None:
    found = unfitted(llama, steps=0, answers={"cold": "no", "warm": "yes"}, question="Is it warm?").fit(X, None)
    assert found.classes_.tolist() == ["cold", "warm"]
    assert set(found.predict(X)) <= {"cold", "warm"}


@pytest.mark.parametrize("settings", [{"answers": {0: "no", 1: "yes"}}, {"steps": 0}])
def test_training_needs_labels(llama: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="requires y to be passed"):
        unfitted(llama, **settings).fit(X, None)


def test_labels_may_be_text(llama: str) -> None:
    labels = Y.map({0: "cold", 1: "warm"})
    found = unfitted(llama, steps=60).fit(X, labels)
    assert found.classes_.tolist() == ["cold", "warm"]
    assert (found.predict(X) == labels).all()


def test_a_class_without_shots_may_be_answered(llama: str) -> None:
    found = unfitted(llama, answers={2: "hot", 0: "cold", 1: "warm"}).fit(X, Y)
    assert found.classes_.tolist() == [0, 1, 2]
    assert list(found.task_.answers.items()) == [(0, "cold"), (1, "warm"), (2, "hot")]
    np.testing.assert_allclose(found.predict_proba(X).sum(axis=1), 1)


def test_codes_follow_the_answers(llama: str) -> None:
    """A class that sorts before those of the shots moves their numbers."""
    found = unfitted(llama, answers={-1: "hot", 0: "cold", 1: "warm"}, steps=120).fit(X, Y)
    assert found.score(X, Y) == 1


def test_the_same_seed_gives_the_same_bytes(llama: str) -> None:
    one, other = unfitted(llama).fit(X, Y), unfitted(llama).fit(X, Y)
    third = unfitted(llama, random_state=1).fit(X, Y)
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    assert not np.array_equal(one.predict_proba(X), third.predict_proba(X))


# What it reads.


def test_missing_values_may_be_missing(llama: str) -> None:
    gaps = X.mask(X["size"] > 9)
    assert np.isfinite(unfitted(llama).fit(gaps, Y).predict_proba(gaps)).all()


def test_an_array_is_a_frame_with_numbered_columns(llama: str) -> None:
    array = X.to_numpy(dtype=object)
    found = unfitted(llama).fit(array, Y.to_numpy())
    same = unfitted(llama, question="What is the class: 0 or 1?").fit(X.set_axis(["x0", "x1"], axis=1), Y)
    np.testing.assert_array_equal(found.predict_proba(array), same.predict_proba(X.set_axis(["x0", "x1"], axis=1)))
    assert found.n_features_in_ == 2
    assert not hasattr(found, "feature_names_in_")
    assert same.feature_names_in_.tolist() == ["x0", "x1"]


def test_a_wide_row_is_read_in_part(llama: str) -> None:
    """The colour tells the class, so it stays, though it is last."""
    noise = pd.DataFrame({f"noise {number}": np.arange(16) % 3 for number in range(30)})
    found = unfitted(llama, max_tokens=150).fit(noise.assign(colour=X["colour"]), Y)
    kept = [column.name for column in found.serializer_.kept]
    assert "colour" in kept
    assert 1 < len(kept) < 31


def test_a_row_longer_than_those_learned_from_is_cut(llama: str) -> None:
    found = unfitted(llama, max_tokens=100).fit(X, Y)
    longer = X.assign(colour="red " * 200)
    with pytest.warns(UserWarning, match="16 of 16 rows are longer than"):
        assert np.isfinite(found.predict_proba(longer)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 9}, "max_tokens: expected more than the"),
        ({"steps": -1}, "steps: expected 0 or more"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"calibrate": "platt"}, "calibrate: expected one of temperature, contextual, auto or None, found 'platt'"),
        ({"answers": {0: "no"}}, "answers: expected one for each class, found none for 1"),
        ({"order": "mixed"}, "order: expected row-first or question-first"),
        ({"base": "./nowhere"}, "base './nowhere'"),
    ],
)
def test_settings_are_checked(llama: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        unfitted(llama).set_params(**settings).fit(X, Y)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.linspace(0, 1, 16) ** 2, "y: Unknown label type: continuous; expected classes"),
        (np.zeros(16), "y: expected at least 2 classes, found 1 class"),
        (pd.Series(["a", None] * 8), "contains NaN"),
    ],
)
def test_labels_are_checked(llama: str, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unfitted(llama).fit(X, labels)


@pytest.mark.parametrize("frame", [X.iloc[:0], X[[]]])
def test_an_empty_frame_is_refused(llama: str, frame: pd.DataFrame) -> None:
    with pytest.raises((DataError, ValueError), match=r"X: expected rows and columns|0 feature"):
        unfitted(llama).fit(frame, Y.iloc[: len(frame)] if len(frame) else Y)


def test_a_failed_fit_leaves_nothing_fitted(llama: str) -> None:
    found = unfitted(llama).fit(X, Y)
    with pytest.raises(ConfigError):
        found.set_params(max_tokens=9).fit(X, Y)
    with pytest.raises(NotFittedError):
        found.predict(X)


# Calibration.


def test_contextual_calibration_favours_no_class_where_there_is_nothing_to_read(llama: str) -> None:
    found = unfitted(llama, calibrate="contextual").fit(X, Y)
    assert found.calibration_ is not None
    plain = unfitted(llama).fit(X, Y)
    free = Calibration()(plain._scores(["N/A", "[MASK]", ""])).mean(dim=0).numpy()
    odds = plain.predict_proba(X) / free
    np.testing.assert_allclose(found.predict_proba(X), odds / odds.sum(axis=1, keepdims=True), atol=1e-6)


def test_a_temperature_is_of_shots_held_back(llama: str) -> None:
    frame, labels = bases.rows(32)
    found = unfitted(llama, calibrate="temperature", steps=None).fit(frame, labels)
    assert found.calibration_.offsets is None
    assert found.calibration_.temperature != 1
    assert len(found.losses_) == 180  # of 24 shots


def test_auto_takes_what_the_shots_allow(llama: str) -> None:
    few = unfitted(llama, calibrate="auto").fit(X.iloc[:8], Y.iloc[:8])
    many = unfitted(llama, calibrate="auto").fit(*bases.rows(32))
    assert few.calibration_.offsets is not None
    assert many.calibration_.offsets is None


def test_a_temperature_of_a_few_shots_is_refused(llama: str) -> None:
    with pytest.raises(DataError, match="calibrate: expected 8 shots of each class for a temperature, found 4"):
        unfitted(llama, calibrate="temperature").fit(X.iloc[:8], Y.iloc[:8])


# One base for all.


def test_the_base_is_loaded_once_and_left_as_it_was(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_base.cache_clear()
    loads: list[str] = []
    load = shared.load_base
    monkeypatch.setattr(
        shared, "load_base", lambda source, **settings: loads.append(source) or load(source, **settings)
    )
    first = unfitted(llama).fit(X, Y)
    model = first._shared.base.model
    before, numbers = fingerprint(model), values(model)
    second = clone(first).set_params(random_state=3, steps=5).fit(X, Y)
    first.predict(X), second.predict(X)
    assert loads == [llama]
    assert fingerprint(model) == before
    assert_bit_identical(values(model), numbers)


def test_two_do_not_disturb_each_other(llama: str, learned: TabLLMClassifier) -> None:
    alone = learned.predict_proba(X)
    other = unfitted(llama, steps=30, method=dt.BitFit(add_missing=True)).fit(X, 1 - Y)
    others = other.predict_proba(X)
    np.testing.assert_array_equal(learned.predict_proba(X), alone)
    del learned
    np.testing.assert_array_equal(other.predict_proba(X), others)


def test_threads_take_turns(llama: str, learned: TabLLMClassifier) -> None:
    other = unfitted(llama, steps=30).fit(X, 1 - Y)
    wanted = {each: each.predict_proba(X) for each in (learned, other)}
    found: list[tuple[TabLLMClassifier, Any]] = []
    threads = [
        threading.Thread(target=lambda each=each: found.append((each, each.predict_proba(X))))
        for each in (learned, other) * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for each, probabilities in found:
        np.testing.assert_array_equal(probabilities, wanted[each])


# scikit-learn.


def test_a_clone_is_unfitted_and_the_same(learned: TabLLMClassifier) -> None:
    copied = clone(learned)
    assert repr(copied) == repr(learned)
    with pytest.raises(NotFittedError):
        copied.predict(X)


def test_it_works_in_pipelines_and_cross_validation(llama: str) -> None:
    first = FunctionTransformer(lambda frame: frame[["colour"]])
    scores = cross_val_score(make_pipeline(first, unfitted(llama, steps=60)), X, Y, cv=2, scoring="roc_auc")
    assert scores.tolist() == [1, 1]


def test_columns_have_to_be_those_that_were_learned(learned: TabLLMClassifier) -> None:
    with pytest.raises(ValueError, match="feature names"):
        learned.predict(X.rename(columns={"size": "weight"}))


def test_rows_without_names_are_told_by_their_places(llama: str, learned: TabLLMClassifier) -> None:
    expected = learned.predict_proba(X)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        np.testing.assert_allclose(learned.predict_proba(X.to_numpy(dtype=object)), expected)
    nameless = unfitted(llama).fit(X.to_numpy(dtype=object), Y)
    expected = nameless.predict_proba(X.to_numpy(dtype=object))
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        np.testing.assert_allclose(nameless.predict_proba(X), expected)


class OfChance(TabLLMClassifier):
    """A random model is no good classifier, and need not be one here."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


@pytest.mark.slow
def test_scikit_learns_own_checks(llama: str) -> None:
    found = OfChance(llama, steps=2, method=dt.LoRA(r=2), serializer=Serializer(digits=3))
    results = check_estimator(found, expected_failed_checks=bases.EXPECTED_FAILURES, on_skip=None)
    assert "check_estimators_pickle" in {each["check_name"] for each in results if each["status"] == "xfail"}


# Files.


def test_it_comes_back_from_a_file(llama: str, learned: TabLLMClassifier, tmp_path: Path) -> None:
    learned.save(tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors", "classifier.json"} <= {
        f.name for f in tmp_path.iterdir()
    }
    shared_base.cache_clear()
    found = TabLLMClassifier.load(tmp_path)
    np.testing.assert_array_equal(found.predict_proba(X), learned.predict_proba(X))
    assert found.get_params() == learned.get_params()
    for name in ("task_", "serializer_", "losses_", "calibration_", "n_features_in_"):
        assert getattr(found, name) == getattr(learned, name)
    assert found.classes_.dtype == learned.classes_.dtype
    assert found.feature_names_in_.tolist() == learned.feature_names_in_.tolist()
    before = (tmp_path / "classifier.json").read_bytes()
    found.save(tmp_path)
    assert (tmp_path / "classifier.json").read_bytes() == before


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"steps": 0, "calibrate": "contextual", "answers": {0: "no", 1: "yes"}, "question": "Is it warm?"},
        {"method": dt.IA3(), "serializer": Serializer(style="list"), "order": "question-first", "random_state": None},
    ],
)
def test_all_settings_come_back(llama: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    written = unfitted(llama, **settings).fit(X, Y)
    written.save(tmp_path)
    found = TabLLMClassifier.load(tmp_path)
    np.testing.assert_allclose(found.predict_proba(X), written.predict_proba(X), rtol=1e-5)
    assert found.get_params() == written.get_params()
    assert found.calibration_ == written.calibration_


@pytest.mark.parametrize("labels", [Y.astype(bool), Y.astype(float), Y.map({0: "kalt", 1: "wärmer"}), Y.to_numpy(str)])
def test_labels_come_back_as_they_were(llama: str, tmp_path: Path, labels: Any) -> None:
    written = unfitted(llama).fit(X, labels)
    written.save(tmp_path)
    found = TabLLMClassifier.load(tmp_path)
    assert found.classes_.dtype == written.classes_.dtype
    assert found.classes_.tolist() == written.classes_.tolist()


def test_settings_of_a_search_are_saved(llama: str, tmp_path: Path) -> None:
    unfitted(llama, steps=np.int64(1), learning_rate=np.float64(1e-3)).fit(X, Y).save(tmp_path)
    assert TabLLMClassifier.load(tmp_path).steps == 1


def test_what_was_not_fitted_is_not_saved(llama: str, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        unfitted(llama).save(tmp_path)


def test_a_fitted_one_is_not_pickled(learned: TabLLMClassifier) -> None:
    for way in (pickle.dumps, copy.deepcopy):
        with pytest.raises(DeltaError, match=r"expected an unfitted one to pickle, found it fitted; use save\(\)"):
            way(learned)
    assert pickle.loads(pickle.dumps(clone(learned))).get_params() == learned.get_params()


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"format": 1, "kind": "TabLLMClassifier"}'])
def test_a_folder_without_a_classifier_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "classifier.json").write_text(content)
    with pytest.raises(FileFormatError, match=r"classifier\.json: expected|found no classifier\.json there"):
        TabLLMClassifier.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("format", 2), ("kind", "EncoderClassifier"), ("serializer", {}), ("task", {}), ("classes", [[0], "int64"])],
)
def test_a_damaged_file_is_refused(learned: TabLLMClassifier, tmp_path: Path, name: str, value: Any) -> None:
    file = learned.save(tmp_path) / "classifier.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(FileFormatError, match=r"classifier\.json: expected"):
        TabLLMClassifier.load(tmp_path)


def test_another_base_is_refused(learned: TabLLMClassifier, tmp_path: Path) -> None:
    file = learned.save(tmp_path / "saved") / "classifier.json"
    other = bases.llama(tmp_path / "other", hidden_size=16)
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "settings": {**about["settings"], "base": other}}))
    with pytest.raises(BaseMismatchError):
        TabLLMClassifier.load(tmp_path / "saved")


# The real model.


@pytest.mark.slow
@pytest.mark.models
def test_smollm2_reads_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"animal": ["whale", "eagle", "trout", "dog", "sparrow", "shark", "horse", "owl"]})
    labels = pd.Series(["mammal", "bird", "fish", "mammal", "bird", "fish", "mammal", "bird"], name="kind")
    found = TabLLMClassifier(steps=16).fit(frame, labels)
    assert found.score(frame, labels) == 1
    found.save(tmp_path)
    np.testing.assert_array_equal(TabLLMClassifier.load(tmp_path).predict_proba(frame), found.predict_proba(frame))
