"""Columns: kinds told from values, names in words, missing values in all spellings."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deltatune.apps.tab.columns import MISSING, ColumnInfo, columns_of, present
from deltatune.errors import ConfigError, DataError


def column(values: Any, name: str | int = "x", **settings: Any) -> ColumnInfo:
    return columns_of(pd.DataFrame({name: values}), **settings)[0]


ZERO_ONE = [0, 1] * 5


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3], "integer"),
        ([1.0, np.nan, 3.0], "integer"),
        ([1.5, 2.0], "decimal"),
        (["1", "2.5", "?"], "decimal"),
        (["1", " 2 ", "none"], "integer"),
        ([Decimal("1.50"), Decimal(2)], "decimal"),
        (pd.array([1, None, 2], dtype="Int64"), "integer"),
        (["02134", "10115"], "category"),
        (["0.5", "0"], "decimal"),
        (ZERO_ONE, "flag"),
        ([str(value) for value in ZERO_ONE], "flag"),
        (ZERO_ONE[:6], "integer"),
        ([True, False], "flag"),
        ([True, None], "flag"),
        (pd.array([True, None], dtype="boolean"), "flag"),
        (["Yes", "no", ""], "flag"),
        (["no", "no"], "flag"),
        (["TRUE", "False"], "flag"),
        (["t", "f"], "flag"),
        (["f", "f"], "category"),
        (["f", "m"], "category"),
        (["none", "guarantor"], "category"),
        (["red", 3], "category"),
        (pd.Categorical([1, 2, 1]), "category"),
        ([None, None], "category"),
        (["2024-06-30", "1999-01-01 12:30:00"], "date"),
        (["2024-13-30", "1999-01-01"], "category"),
        ([datetime.date(2024, 6, 30), None], "date"),
        (pd.to_datetime(["2024-06-30", None]), "date"),
        ([f"name {number}" for number in range(30)], "text"),
        (["a", "b", "c"] * 10, "category"),
        (["word " * 20, "other " * 20], "text"),
        (["word " * 20, "other " * 20] * 10, "category"),
    ],
)
def test_the_kind_is_told_from_the_values(values: Any, kind: str) -> None:
    found = column(values)
    assert found.kind == kind
    assert found.reason


def test_a_row_that_comes_first_does_not_decide() -> None:
    assert column(["1", "2", "many"]).kind == "category"


@pytest.mark.parametrize("word", [*MISSING, "NA", " NaN ", "N/A", "Null", None, np.nan, pd.NA, pd.NaT])
def test_what_is_missing_is_known_in_all_spellings(word: Any) -> None:
    assert present(pd.Series(["a", word], dtype=object)).tolist() == [True, False]


def test_none_is_missing_among_numbers_only() -> None:
    assert present(pd.Series(["none", "bank"])).all()
    assert present(pd.Series(["secret", "bank"]), ("secret",)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blood_pressure", "blood pressure"),
        ("bloodPressure", "blood pressure"),
        ("BareNuclei", "bare nuclei"),
        ("HDLCholesterol", "HDL cholesterol"),
        ("BMI", "BMI"),
        ("marital.status", "marital status"),
        ("body-style", "body-style"),
        ("Größe  des Hauses", "größe des hauses"),
        ("年龄", "年龄"),
        ("__", "__"),
        ("x1", "x1"),
        (7, "column 7"),
    ],
)
def test_a_name_is_said_in_words(name: str | int, said: str) -> None:
    assert column([1], name).said == said


def test_a_unit_stands_behind_the_name_of_a_number() -> None:
    found = column([5.1, 4.9], "sepal length (cm)")
    assert (found.said, found.unit) == ("sepal length", "cm")
    assert column(["a", "b"], "grade (school)").said == "grade (school)"
    assert column([5], "weight [kg]", units={"weight [kg]": "lb"}).unit == "lb"


def test_settings_go_before_what_is_told() -> None:
    found = column([1, 2], "cp", names={"cp": "chest pain"}, kinds={"cp": "category"}, units={"cp": "grade"})
    assert str(found) == "chest pain (grade): category, as set"
    assert column(["a"], 3, names={"3": "third"}).said == "third"


def test_a_column_without_values_is_left_out_but_not_one_without_rows() -> None:
    assert column(["?", ""]).left_out == "no row has a value"
    assert column([]).left_out == ""


def test_what_can_not_be_used_is_said() -> None:
    with pytest.raises(ConfigError, match="units: expected columns among x, found 'y'"):
        column([1], units={"y": "m"})
    with pytest.raises(DataError, match="found 'a' twice"):
        columns_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(DataError, match=r"found \('a', 'b'\)"):
        columns_of(pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])))
    with pytest.raises(DataError, match="expected columns, found none"):
        columns_of(pd.DataFrame())
