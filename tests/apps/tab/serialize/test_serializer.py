"""Serializers: the paper's forms, what is missing, what is left out, ablations, JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deltatune.apps.tab.serialize import FittedSerializer, Serializer
from deltatune.errors import ConfigError, DataError

PEOPLE = pd.DataFrame(
    {
        "Age": [41.0, 65.0, np.nan],
        "house_price (EUR)": [0.1 + 0.2, 1234.5, 99.0],
        "isSmoker": [True, False, None],
        "job": ["cook", "?", "mended  old\nclocks."],
        "since": ["2024-06-30", "2001-01-01", ""],
    }
)


def texts(frame: pd.DataFrame = PEOPLE, **settings: Any) -> list[str]:
    return Serializer(**settings).fit(frame).texts(frame)


def words(text: str) -> int:
    return len(text.split())


def test_the_text_has_a_sentence_for_each_value() -> None:
    assert texts() == [
        "The age is 41. The house price is 0.3 EUR. The is smoker is yes. The job is cook. The since is 2024-06-30.",
        "The age is 65. The house price is 1234.5 EUR. The is smoker is no. The since is 2001-01-01.",
        "The house price is 99 EUR. The job is mended old clocks.",
    ]


def test_the_list_has_a_line_for_each_value_and_the_values_no_names() -> None:
    rows = PEOPLE[["Age", "job"]]
    assert texts(rows, style="list") == ["- age: 41\n- job: cook", "- age: 65", "- job: mended old clocks."]
    assert texts(rows, style="values") == ["- 41\n- cook", "- 65", "- mended old clocks."]


def test_overrides_are_by_column() -> None:
    [first, second, _] = texts(
        PEOPLE[["Age", "house_price (EUR)"]],
        names={"Age": "number of years"},
        units={"Age": "years"},
        formats={"house_price (EUR)": "about {:,.0f}"},
        note="A person.",
        missing="unknown",
    )
    assert first == "A person. The number of years is 41 years. The house price is about 0 EUR."
    assert second.endswith("The house price is about 1,234 EUR.")
    assert texts(PEOPLE[["Age"]], missing="unknown", units={"Age": "%"})[1:] == [
        "The age is 65%.",
        "The age is unknown.",
    ]
    assert texts(PEOPLE[["Age"]], style="list", note="One.")[0] == "One.\n- age: 41"
    assert texts(pd.DataFrame({"x": [2 / 3]}), digits=3) == ["The x is 0.667."]
    assert texts(pd.DataFrame({"x": ["no answer", "a"]}), missing_spellings=("no answer",))[0] == ""
    assert texts(pd.DataFrame({"x": [0, 1]}), kinds={"x": "flag"}) == ["The x is no.", "The x is yes."]


def test_a_custom_template_is_filled_without_units() -> None:
    template = "{Age} years old. Works as {job}."
    assert texts(style="custom", template=template, units={"Age": "years"}) == [
        "41 years old. Works as cook.",
        "65 years old.",
        "Works as mended old clocks..",
    ]
    fitted = Serializer(style="custom", template=template).fit(PEOPLE)
    assert [column.name for column in fitted.kept] == ["Age", "job"]
    assert fitted.columns[1].left_out == "not in the template"


def test_other_rows_are_said_as_the_first_were() -> None:
    fitted = Serializer().fit(PEOPLE)
    others = pd.DataFrame({"extra": [1], **{name: ["none"] for name in PEOPLE}}).assign(isSmoker="sometimes", Age="old")
    assert fitted.texts(others) == ["The age is old. The is smoker is sometimes. The job is none. The since is none."]
    with pytest.raises(DataError, match="table: expected a column 'Age', found none"):
        fitted.texts(PEOPLE.drop(columns="Age"))


def test_columns_of_an_array_have_numbers() -> None:
    assert texts(pd.DataFrame(np.array([[1.0, 2.5]]))) == ["The column 0 is 1. The column 1 is 2.5."]


def test_the_kinds_are_shown() -> None:
    shown = Serializer().fit(PEOPLE.assign(empty=None)).describe().splitlines()
    assert shown[0] == "age: integer, numbers from 41 to 65"
    assert shown[1].startswith("house price (EUR): decimal")
    assert shown[-1] == "empty: category, without a value; left out: no row has a value"


CELLS = st.one_of(st.none(), st.integers(-9, 9), st.floats(-1e3, 1e3), st.text(max_size=8), st.booleans())
FRAMES = st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=12).map(
    lambda rows: pd.DataFrame(rows, columns=["a", "b_c", "D"], dtype=object)
)
SETTINGS = st.fixed_dictionaries(
    {
        "style": st.sampled_from(["text", "list"]),
        "permute": st.sampled_from([None, "names", "values"]),
        "missing": st.sampled_from([None, "unknown"]),
        "seed": st.integers(0, 99),
    }
)


@hypothesis_settings(deadline=None, max_examples=40)
@given(FRAMES, SETTINGS)
def test_any_table_is_said_and_what_was_fitted_survives_json(frame: pd.DataFrame, settings: dict[str, Any]) -> None:
    fitted = Serializer(**settings).fit(frame, labels=list(range(len(frame))))
    read = FittedSerializer.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert read == fitted
    assert read.texts(frame) == fitted.texts(frame)
    assert len(fitted.texts(frame)) == len(frame)
    if settings["style"] == "list":
        assert all(line.startswith("- ") for text in fitted.texts(frame) for line in text.splitlines())


def informative(rows: int = 60) -> tuple[pd.DataFrame, list[int]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, rows)
    frame = pd.DataFrame({f"n{number}": rng.normal(size=rows).round(3) for number in range(6)})
    return frame.assign(
        word=np.where(labels, "left", "right"), number=labels * 5 + rng.normal(size=rows)
    ), labels.tolist()


@pytest.mark.parametrize("budget", [4, 8, 16, 100])
def test_within_a_budget_the_columns_that_tell_most_stay(budget: int) -> None:
    frame, labels = informative()
    fitted = Serializer().fit(frame, labels)
    short = fitted.within(budget, words, frame)
    assert max(map(words, short.texts(frame))) <= budget
    kept = {column.name for column in short.kept}
    assert len(kept) == min(budget // 4, frame.shape[1])
    assert kept <= {"word", "number"} or {"word", "number"} < kept
    if budget == 4:
        assert "left out: says least about the class, 0" in short.describe()
        assert f"would have more than {budget} tokens" in short.describe()
    if budget == 100:
        assert short is fitted


def test_without_labels_the_last_columns_go_first() -> None:
    frame, _ = informative()
    short = Serializer().fit(frame).within(8, words, frame)
    assert [column.name for column in short.kept] == ["n0", "n1"]
    assert short.columns[-1].left_out.startswith("last, and rows")


def test_a_column_too_long_alone_goes_first() -> None:
    frame = pd.DataFrame({"review": ["good " * 50, "bad"], "stars": [5, 1]})
    short = Serializer().fit(frame).within(8, words, frame)
    assert short.texts(frame) == ["The stars is 5.", "The stars is 1."]
    assert "left out: alone it has more than 8 tokens" in short.describe().splitlines()[0]


def test_in_a_template_what_is_left_out_takes_its_sentence_with_it() -> None:
    frame, labels = informative()
    template = "Noise: {n0}. Word: {word}."
    short = Serializer(style="custom", template=template).fit(frame, labels).within(2, words, frame)
    assert set(short.texts(frame)) == {"Word: left.", "Word: right."}


def test_a_budget_for_no_column_is_refused() -> None:
    with pytest.raises(DataError, match="budget: expected room for a column, found 3 tokens"):
        Serializer().fit(PEOPLE).within(3, words, PEOPLE)


def test_permuted_names_are_each_others_and_so_for_every_row() -> None:
    frame, _ = informative()
    plain, fitted = Serializer().fit(frame), Serializer(permute="names", seed=1).fit(frame)
    said, permuted = ([column.said for column in each.columns] for each in (plain, fitted))
    assert sorted(said) == sorted(permuted)
    assert all(own != other for own, other in zip(said, permuted, strict=True))
    assert fitted == Serializer(permute="names", seed=1).fit(frame.iloc[::-1])
    values = Serializer(style="values").fit(frame).texts(frame)[0]
    assert [sentence.split(" is ")[1].rstrip(".") for sentence in fitted.texts(frame)[0].split(". ")] == [
        line.removeprefix("- ") for line in values.splitlines()
    ]


def test_permuted_values_keep_what_can_be_learned() -> None:
    frame = pd.DataFrame({"word": ["a", "b", "c", "a"], "flag": [True, False, True, True], "number": [1, 2, 3, 1]})
    rows = texts(frame, style="values", permute="values")
    plain = texts(frame, style="values")
    assert rows[0] == rows[3]
    assert len(set(rows)) == len(set(plain))
    for own, other in zip(plain, rows, strict=True):
        assert all(a != b for a, b in zip(own.splitlines(), other.splitlines(), strict=True))


def test_settings_survive_json() -> None:
    serializer = Serializer(style="custom", template="{a}", units={"a": "m"}, kinds={"a": "decimal"}, digits=3)
    assert Serializer.from_dict(json.loads(json.dumps(serializer.to_dict()))) == serializer
    for wrong in ({"stile": "text"}, {"digits": "many"}):
        with pytest.raises(ConfigError, match="serializer: expected another"):
            Serializer.from_dict(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"style": "prose"}, "style: expected one of 'text', 'list'"),
        ({"permute": "rows"}, "permute: expected one of None, 'names', 'values'"),
        ({"style": "custom"}, "template: expected one with the style 'custom' only, found none"),
        ({"template": "{a}"}, "found one beside the style 'text'"),
        ({"style": "values", "permute": "names"}, "permute: expected a style that says names"),
        ({"digits": 0}, "digits: expected 1 to 15"),
        ({"kinds": {"a": "number"}}, "kind of a: expected one of 'integer'"),
        ({"formats": {"a": "{:q}"}}, "format of a: expected one such as"),
        ({"formats": {"a": ",.2f"}}, "add the braces"),
        ({"formats": {"a": "{x}"}}, "format of a"),
        ({"style": "custom", "template": "{"}, "template: expected columns in braces"),
    ],
)
def test_a_wrong_setting_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Serializer(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"formats": {"x": "{:.1f}"}}, {"units": {"x": "m"}}, {"style": "custom", "template": "{x}"}],
)
def test_a_setting_for_a_column_that_is_not_there_is_said(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="found 'x'"):
        Serializer(**settings).fit(PEOPLE)


def test_labels_have_to_fit_the_rows() -> None:
    with pytest.raises(DataError, match="labels: expected one for each of 3 rows, found 2"):
        Serializer().fit(PEOPLE, [0, 1])


def test_a_permutation_of_a_whole_table_moves_what_a_few_rows_do_not_hold() -> None:
    table = pd.DataFrame({"age": range(100), "colour": ["red", "blue", "green", "grey"] * 25})
    few = Serializer(permute="values").permuting(table).fit(table[:4])
    whole = Serializer(permute="values").fit(table)
    assert list(few.texts(table)) == list(whole.texts(table))
    plain = list(Serializer().fit(table).texts(table))
    for one, other in zip(few.texts(table), plain, strict=True):
        assert all(a != b for a, b in zip(one.split(". "), other.split(". "), strict=True))
    again = Serializer.from_dict(json.loads(json.dumps(few.serializer.to_dict())))
    assert list(again.fit(table[:4]).texts(table)) == list(few.texts(table))
