"""Values: numbers that read back, flags as yes or no, dates as days."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.tab.columns import Kind
from deltatune.apps.tab.serialize.values import precision_of, say, say_number


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (65.0, "65"),
        (65, "65"),
        (0.1 + 0.2, "0.3"),
        (1.1 + 2.2, "3.3"),
        (-0.0, "0"),
        (1500000.0, "1500000"),
        (123456.789, "123456.789"),
        (0.00001, "0.00001"),
        (1e-9, "1e-09"),
        (1e22, "1e+22"),
        (10**20, "100000000000000000000"),
        (float("inf"), "inf"),
        (-2.50, "-2.5"),
    ],
)
def test_a_number_has_no_noise(number: float, said: str) -> None:
    assert say_number(number) == said


@settings(deadline=None)
@given(st.decimals(-(10**6), 10**6, places=4))
def test_a_decimal_number_is_said_as_it_was_written(number: Any) -> None:
    text = say_number(float(number))
    assert text == (f"{number:.4f}".rstrip("0").rstrip(".") if number else "0")


@settings(deadline=None)
@given(st.floats(-1e300, 1e300))
def test_a_number_reads_back_to_fifteen_digits(number: float) -> None:
    assert float(say_number(number)) == pytest.approx(number, rel=1e-14, abs=0)


def test_a_type_of_less_precision_is_said_with_fewer_digits() -> None:
    assert say_number(float(np.float32(0.1)), precision_of(pd.Series([0.1], dtype="float32"))) == "0.1"
    assert precision_of(pd.Series([0.1], dtype="Float32")) < precision_of(pd.Series([0.1]))
    assert precision_of(pd.Series(["0.1"])) == precision_of(pd.Series([1])) == 15
    assert say_number(2 / 3, 3) == "0.667"


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (" 65.0", "integer", "65"),
        ("12345678901234567890", "integer", "12345678901234567890"),
        (np.int64(3), "integer", "3"),
        ("none", "decimal", None),
        ("many", "decimal", "many"),
        (True, "flag", "yes"),
        (np.bool_(False), "flag", "no"),
        (0.0, "flag", "no"),
        ("F", "flag", "no"),
        ("perhaps", "flag", "perhaps"),
        ("2024-06-30T00:00:00", "date", "2024-06-30"),
        ("2024-06-30T14:05:31.5Z", "date", "2024-06-30 14:05"),
        (datetime.date(2024, 6, 30), "date", "2024-06-30"),
        (pd.Timestamp("2024-06-30 14:05"), "date", "2024-06-30 14:05"),
        ("soon", "date", "soon"),
        (2.0, "category", "2"),
        (True, "category", "yes"),
        (" two\n words ", "text", "two words"),
    ],
)
def test_a_value_is_said_by_its_kind(value: Any, kind: Kind, said: str | None) -> None:
    assert say(value, kind) == said
