from __future__ import annotations

import json
import re
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.demo.grammar import CATEGORIES, MONTHS, PEOPLE, TEMPLATES, Halves
from deltatune.demo.task import FIELDS, INSTRUCTION, SIZES, examples, parse, score
from deltatune.errors import ConfigError, DataError

TRAIN, TEST = examples("train"), examples("test")
REFERENCE = '{"payee": "Noodle Bar", "amount": 34.5, "currency": "EUR", "date": "03-03", "category": "meals"}'


def note_of(example: dict[str, str]) -> str:
    return example["prompt"].removeprefix("Note: ").removesuffix(f"\n{INSTRUCTION}")


def skeleton(sentence: str) -> str:
    """A sentence by its words alone, so that a comma more does not make it another."""
    return " ".join(re.findall(r"\w+", sentence.casefold()))


# The data.


def test_the_default_sizes_and_no_two_notes_alike():
    assert [len(TRAIN), len(TEST)] == [SIZES["train"], SIZES["test"]] == [400, 100]
    notes = {note_of(example) for example in TRAIN + TEST}
    assert len(notes) == 500


def test_a_seed_names_the_data_and_a_size_cuts_it():
    assert examples("train", 3) == examples("train", 3)
    assert examples("train", 3) != examples("train", 4)
    assert examples("test", 3, size=7) == examples("test", 3)[:7]
    assert examples("test", size=0) == []


def test_the_data_of_seed_0_is_pinned():
    note = "Upcoming on the 3rd of December: The Comedy Cellar, the art exhibition, GBP 67.67."
    record = (
        '{"payee": "The Comedy Cellar", "amount": 67.67, "currency": "GBP", "date": "12-03", "category": "leisure"}'
    )
    assert TEST[0] == {"prompt": f"Note: {note}\n{INSTRUCTION}", "completion": record}


@pytest.mark.parametrize(
    "halves", [TEMPLATES, PEOPLE, *(c.payees for c in CATEGORIES.values()), *(c.items for c in CATEGORIES.values())]
)
def test_the_two_halves_of_the_words_share_nothing(halves: Halves):
    train, test = ({skeleton(words) for words in half} for half in halves)
    assert not train & test
    assert len(train) == len(halves.train)
    assert len(test) == len(halves.test)


def test_no_held_out_payee_person_or_purchase_is_in_a_training_note():
    held_out = [*PEOPLE.test, *(w for c in CATEGORIES.values() for half in (c.payees, c.items) for w in half.test)]
    text = "\n".join(note_of(example) for example in TRAIN).casefold()
    assert [words for words in held_out if re.search(rf"\b{re.escape(words.casefold())}\b", text)] == []


def test_no_held_out_sentence_is_in_a_training_note():
    """The fixed words of each held-out template, in their order, are found in no training note."""
    gaps = [[skeleton(text) for text, *_ in Formatter().parse(template)] for template in TEMPLATES.test]
    patterns = [re.compile(r".*\b" + r"\b.*\b".join(filter(None, words)) + r"\b") for words in gaps if any(words)]
    notes = [skeleton(note_of(example)) for example in TRAIN]
    assert [p.pattern for p in patterns if any(p.match(note) for note in notes)] == []


@pytest.mark.parametrize("template", [*TEMPLATES.train, *TEMPLATES.test])
def test_every_template_says_all_that_the_record_holds(template: str):
    fields = {name for _, name, *_ in Formatter().parse(template) if name}
    assert {"payee", "amount", "date", "item"} <= fields <= {"payee", "amount", "date", "item", "join", "person"}


SIGNS = {
    "CHF": ("CHF", "francs"),
    "EUR": ("EUR", "€", "euros"),
    "GBP": ("GBP", "£", "pounds"),
    "USD": ("USD", "$", "dollars"),
}


def test_every_reference_is_strict_json_that_its_note_supports():
    for example in TRAIN + TEST:
        record, note = json.loads(example["completion"]), note_of(example)
        month, day = map(int, record["date"].split("-"))
        assert tuple(record) == FIELDS
        assert record["payee"] in note
        assert record["payee"] in [name for half in CATEGORIES[record["category"]].payees for name in half]
        assert re.search(rf"\b{re.escape(str(record['amount']))}0?\b", note)
        assert any(sign in note for sign in SIGNS[record["currency"]])
        assert re.search(rf"\b{MONTHS[month - 1][:3]}", note)
        assert re.search(rf"\b{day}(st|nd|rd|th)?\b", note)
        assert score(example["completion"], example["completion"]).exact


def test_an_unknown_split_or_size_is_refused():
    with pytest.raises(ConfigError, match="split: expected one of train, test, found 'dev'"):
        examples("dev")
    with pytest.raises(ConfigError, match="size: expected 0 or more, found -1"):
        examples("train", size=-1)


# The score.


@pytest.mark.parametrize(
    "prediction",
    [
        REFERENCE,
        f"Sure! Here it is:\n```json\n{REFERENCE}\n```\nAnything else?",
        json.dumps(json.loads(REFERENCE), indent=2),
        REFERENCE.replace("34.5", '"34.50"').replace("Noodle Bar", "noodle  bar"),
        f'{{"record": {REFERENCE}}}',
        "{oops} " + REFERENCE,
    ],
)
def test_wrapping_is_forgiven(prediction: str):
    assert score(prediction, REFERENCE).exact


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("wrong", ["nothing like it", None, True, [], {}, float("nan"), 10**400])
def test_one_wrong_field_costs_that_field_and_exactness(name: str, wrong: object):
    result = score(json.dumps(json.loads(REFERENCE) | {name: wrong}), REFERENCE)
    assert not result.exact
    assert [field for field, right in result.fields.items() if not right] == [name]
    assert result.accuracy == pytest.approx(0.8)


def test_a_field_too_many_is_not_exact():
    result = score(json.dumps(json.loads(REFERENCE) | {"tip": 1}), REFERENCE)
    assert not result.exact
    assert result.accuracy == 1


@pytest.mark.parametrize(
    "prediction", ["", "no idea", REFERENCE[:-1], "[1, 2]", '{"note": 1}', '{"payee": ' * 5000, "{" * 5000]
)
def test_an_output_without_a_record_scores_nothing(prediction: str):
    result = score(prediction, REFERENCE)
    assert not result.exact
    assert result.accuracy == 0


@settings(deadline=None)
@given(st.text())
def test_any_text_can_be_scored(text: str):
    assert 0 <= score(text, REFERENCE).accuracy <= 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(), json_values))
def test_exact_means_that_all_fields_are_right(record: dict[str, object]):
    result = score(json.dumps(record), REFERENCE)
    assert result.exact <= (result.accuracy == 1)
    assert result.exact == (result.accuracy == 1 and set(record) == set(FIELDS))


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "payee": st.text(),
            "amount": st.floats(0, 1e6),
            "currency": st.text(),
            "date": st.text(),
            "category": st.text(),
        }
    ),
    st.text(),
)
def test_a_record_agrees_with_itself_whatever_stands_after_it(record: dict[str, object], after: str):
    reference = json.dumps(record)
    assert parse(reference + after) == record
    assert score(reference + after, reference).exact


def test_no_amount_is_not_the_same_as_none_to_find():
    assert not score('{"payee": "Noodle Bar"}', REFERENCE.replace("34.5", '"free"')).fields["amount"]


def test_a_reference_without_a_record_is_refused():
    with pytest.raises(DataError, match="reference: expected a JSON record"):
        score(REFERENCE, '{"payee": "Noodle Bar"}')
