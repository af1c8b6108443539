"""Custom templates: filled as Python fills them, and without the sentences that have nothing to say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.apps.tab.serialize.template import parse_template
from deltatune.errors import ConfigError

TEMPLATE = "A {age} year old {job}. Smokes: {smokes}.\nHas {{braces}}. Lives in {house type}!"
ALL: dict[str, str | None] = {"age": "41", "job": "cook", "smokes": "no", "house type": "a flat"}


def test_a_template_knows_its_columns() -> None:
    assert parse_template(TEMPLATE + " {age}").columns == ("age", "job", "smokes", "house type")


def test_a_sentence_without_a_value_is_left_out() -> None:
    template = parse_template(TEMPLATE)
    assert template.fill(ALL) == "A 41 year old cook. Smokes: no.\nHas {braces}. Lives in a flat!"
    assert template.fill(ALL | {"smokes": None}) == "A 41 year old cook.\nHas {braces}. Lives in a flat!"
    assert template.fill(ALL | {"age": None, "job": None}) == "Smokes: no.\nHas {braces}. Lives in a flat!"
    assert template.fill(ALL | {"job": None}).startswith("A 41 year old unknown. Smokes")
    assert template.fill(ALL | {"smokes": None}, "not known").startswith("A 41 year old cook. Smokes: not known.\n")


NAMES = st.sampled_from(["a", "b c", "d_e"])
LITERALS = st.text(st.sampled_from("xy .!?,\n3"), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(LITERALS, NAMES), max_size=5), LITERALS)
def test_with_all_values_it_is_what_python_makes_of_it(parts: list[tuple[str, str]], end: str) -> None:
    text = "".join(f"{literal}{{{name}}}" for literal, name in parts) + end
    values = {"a": "1.5", "b c": "two. words", "d_e": "!"}
    assert parse_template(text).fill(values) == text.format(**values).strip()


@pytest.mark.parametrize("template", ["{", "{}", "{age:.2f}", "{age!r}", "a } b"])
def test_a_template_of_another_form_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="template: expected columns in braces"):
        parse_template(template)
