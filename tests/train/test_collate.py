"""Batches: padding hides nothing, moves nothing, and is never learned."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.errors import ConfigError, DataError
from deltatune.train.collate import Collator, Side
from deltatune.train.encode import IGNORE

EOS = 2

# Ids from 0 to 4, so that examples often hold the id used for padding.
tokens = st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=9)


def example(pairs: list[tuple[int, bool]]) -> dict[str, Any]:
    return {"input_ids": [i for i, _ in pairs], "labels": [i if learned else IGNORE for i, learned in pairs]}


@given(st.lists(tokens, min_size=1, max_size=5), st.sampled_from(["right", "left"]), st.integers(1, 8))
@settings(deadline=None)
def test_taking_the_padding_off_gives_the_examples_back(
    rows: list[list[tuple[int, bool]]], side: Side, multiple: int
) -> None:
    examples = [example(row) for row in rows]
    batch = Collator(EOS, side, multiple)(examples)
    longest = max(len(row) for row in rows)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    width = batch["input_ids"].shape[1]
    assert width % multiple == 0
    assert longest <= width < longest + multiple
    for i, original in enumerate(examples):
        mask = batch["attention_mask"][i].bool()
        length = len(original["input_ids"])
        assert mask.sum() == length
        assert bool(mask[:length].all() if side == "right" else mask[width - length :].all())
        assert batch["input_ids"][i][mask].tolist() == original["input_ids"]
        assert batch["labels"][i][mask].tolist() == original["labels"]
        assert set(batch["labels"][i][~mask].tolist()) <= {IGNORE}
        assert set(batch["input_ids"][i][~mask].tolist()) <= {EOS}


def test_an_eos_that_is_also_padding_stays_learned_and_seen() -> None:
    short, long = {"input_ids": [5, EOS], "labels": [IGNORE, EOS]}, {"input_ids": [5, 6, EOS], "labels": [5, 5, 5]}
    batch = Collator(EOS)([short, long])
    assert batch["labels"].tolist() == [[IGNORE, EOS, IGNORE], [5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.long}


def test_labels_of_their_own_length_are_padded_to_their_own_width() -> None:
    batch = Collator(0)([{"input_ids": [1, 2, 3], "labels": [4]}, {"input_ids": [1], "labels": [5, 6]}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [1, 0, 0]]
    assert batch["labels"].tolist() == [[4, IGNORE], [5, 6]]


def test_class_ids_are_a_vector_and_token_types_pass() -> None:
    batch = Collator(9)(
        [
            {"input_ids": [1, 2], "token_type_ids": [0, 1], "labels": 1},
            {"input_ids": [1], "token_type_ids": [1], "labels": 0},
        ]
    )
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.long
    assert batch["token_type_ids"].tolist() == [[0, 1], [1, 0]]


def test_prompts_alone_are_padded_left_for_generation() -> None:
    batch = Collator(0, side="left")([{"input_ids": [1, 2]}, {"input_ids": [3]}])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 2], [0, 3]],
        "attention_mask": [[1, 1], [0, 1]],
    }


@pytest.mark.parametrize(
    ("examples", "complaint"),
    [
        ([], "found no examples"),
        ([{"input_ids": [1], "labels": [1]}, {"input_ids": [1]}], "1 of 2 examples have 'labels'"),
        ([{"input_ids": [1], "token_type_ids": [0]}, {"input_ids": [1]}], "1 of 2 examples have 'token_type_ids'"),
        ([{"input_ids": [1], "labels": [1]}, {"input_ids": [1], "labels": 1}], "'labels' is int and list"),
    ],
)
def test_examples_that_differ_are_refused(examples: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        Collator(0)(examples)


def test_padding_falls_back_to_eos() -> None:
    def tokenizer(pad: int | None, eos: int | None) -> Any:
        return SimpleNamespace(pad_token_id=pad, eos_token_id=eos)

    assert Collator.of(tokenizer(0, EOS), side="left", multiple_of=8) == Collator(0, "left", 8)
    assert Collator.of(tokenizer(None, EOS)).pad_token_id == EOS
    with pytest.raises(ConfigError, match="has no pad and no eos token"):
        Collator.of(tokenizer(None, None))


def test_settings_are_checked_and_workers_can_have_it() -> None:
    with pytest.raises(ConfigError, match="side: 'top' is unknown"):
        Collator(0, "top")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple_of: found 0"):
        Collator(0, multiple_of=0)
    collator = Collator(3, "left", 8)
    assert pickle.loads(pickle.dumps(collator)) == collator


def test_padding_that_examples_bring_stays_unseen() -> None:
    batch = Collator(0)(
        [
            {"input_ids": [1, 2, 9, 9], "attention_mask": [1, 1, 0, 0], "labels": [1, 2, -100, -100]},
            {"input_ids": [9, 3], "attention_mask": [0, 1], "labels": [-100, 3]},
        ]
    )
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [0, 1, 0, 0]]
