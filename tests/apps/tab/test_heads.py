"""An encoder with a head as a scikit-learn classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

import deltatune as dt
from deltatune.apps.tab import heads
from deltatune.apps.tab.classifier import TabLLMClassifier
from deltatune.apps.tab.heads import EncoderClassifier
from deltatune.apps.tab.serialize import Serializer
from deltatune.apps.tab.shared import shared_base
from deltatune.errors import FileFormatError
from tests.models.tools import assert_bit_identical, fingerprint, values

from . import bases

X, Y = bases.rows()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bases.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def learned(bert: str) -> EncoderClassifier:
    return unfitted(bert, steps=80).fit(X, Y)


def unfitted(base: str, **settings: Any) -> EncoderClassifier:
    return EncoderClassifier(base, **{"steps": 2, "learning_rate": 1e-2, "method": dt.LoRA(r=4), **settings})


def test_it_learns_what_it_is_shown(learned: EncoderClassifier) -> None:
    assert learned.score(X, Y) == 1
    assert sum(learned.losses_[-8:]) < 0.5 * sum(learned.losses_[:8])


def test_probabilities_are_the_softmax_of_single_logits(learned: EncoderClassifier) -> None:
    with learned._shared.using(learned.delta_) as base, torch.no_grad():
        texts = learned.serializer_.texts(X)
        logits = torch.cat([base.model(**base.tokenizer(text, return_tensors="pt")).logits for text in texts])
    wanted = logits.softmax(dim=-1).numpy()
    np.testing.assert_allclose(learned.predict_proba(X), wanted, atol=1e-5)


def test_the_batch_changes_nothing(learned: EncoderClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    together = learned.predict_proba(X)
    monkeypatch.setattr(heads, "BATCH_TOKENS", 1)
    np.testing.assert_allclose(learned.predict_proba(X), together, atol=1e-5)


def test_the_head_is_trained_and_the_base_left_as_it_was(bert: str) -> None:
    model = unfitted(bert, steps=0).fit(X, Y)._shared.base.model
    before, numbers = fingerprint(model), values(model)
    found = unfitted(bert).fit(X, Y)
    assert found._shared.base.model is model
    assert any(name.startswith("classifier") for name in found.delta_.sites)
    assert fingerprint(model) == before
    assert_bit_identical(values(model), numbers)


def test_a_head_starts_the_same_whenever_it_is_loaded(bert: str) -> None:
    one = unfitted(bert, steps=0).fit(X, Y).predict_proba(X)
    shared_base.cache_clear()
    torch.manual_seed(99)
    np.testing.assert_array_equal(unfitted(bert, steps=0).fit(X, Y).predict_proba(X), one)


def test_classes_may_be_several(bert: str) -> None:
    found = unfitted(bert, steps=200).fit(X, X["colour"])
    assert found.predict_proba(X).shape == (16, 4)
    assert found.score(X, X["colour"]) == 1


@pytest.mark.parametrize("method", [dt.BitFit(), dt.Pfeiffer(m=4), dt.PrefixTuning(tokens=2)])
def test_any_method_trains(bert: str, method: dt.Method) -> None:
    found = unfitted(bert, method=method, steps=4).fit(X, Y)
    assert np.isfinite(found.predict_proba(X)).all()
    assert len(found.losses_) == 4


def test_it_comes_back_from_a_file(learned: EncoderClassifier, tmp_path: Path) -> None:
    learned.save(tmp_path)
    shared_base.cache_clear()
    found = EncoderClassifier.load(tmp_path)
    np.testing.assert_array_equal(found.predict_proba(X), learned.predict_proba(X))
    assert found.get_params() == learned.get_params()
    with pytest.raises(FileFormatError, match="of TabLLMClassifier, found format 1 of EncoderClassifier"):
        TabLLMClassifier.load(tmp_path)


def test_a_clone_learns_the_same(learned: EncoderClassifier) -> None:
    np.testing.assert_array_equal(clone(learned).fit(X, Y).predict_proba(X), learned.predict_proba(X))


def test_a_method_that_looks_at_data_first_is_shown_it(bert: str) -> None:
    found = unfitted(bert, method=dt.ChildTuning(mode="D", p=0.1), steps=2).fit(X, Y)
    assert len(found.losses_) == 2


class OfChance(EncoderClassifier):
    """A random model is no good classifier, and need not be one here."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* rows are longer than:UserWarning")
def test_scikit_learns_own_checks(bert: str) -> None:
    found = OfChance(bert, steps=2, method=dt.LoRA(r=2), serializer=Serializer(style="values", digits=2))
    results = check_estimator(found, expected_failed_checks=bases.EXPECTED_FAILURES, on_skip=None)
    assert "check_estimators_pickle" in {each["check_name"] for each in results if each["status"] == "xfail"}


@pytest.mark.slow
@pytest.mark.models
def test_minilm_reads_a_table(tmp_path: Path) -> None:
    frame, labels = bases.rows(8)
    found = EncoderClassifier(steps=40).fit(frame, labels)
    assert found.score(frame, labels) == 1
    found.save(tmp_path)
    np.testing.assert_array_equal(EncoderClassifier.load(tmp_path).predict_proba(frame), found.predict_proba(frame))
