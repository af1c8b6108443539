"""Whatever a model would like to write, what it writes can become a query of the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessorList

from deltatune.apps.sql.constrained import OnlyKnownWords, Place, QueryWords
from deltatune.apps.sql.finance import database
from deltatune.apps.sql.schema import Column, Database, Table
from deltatune.io.bases import Base, load_base
from deltatune.train.complete import complete, ends
from tests.cli import tiny

WORDS = QueryWords(database("funds"), "sqlite")
PROMPTS = ["How many funds are there?", "How many bond funds are there?", "Who?"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A random model, which writes anything at all."""
    return load_base(tiny.save_llama(tmp_path_factory.mktemp("base"), max_position_embeddings=512))


def written(base: Base, prompts: list[str], **settings: Any) -> Iterator[str]:
    ids = [base.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    constraint = OnlyKnownWords([WORDS] * len(prompts), base.tokenizer, ends(base))
    settings |= {"logits_processor": LogitsProcessorList([constraint])}
    return complete(base, ids, batch_size=len(ids), max_new_tokens=40, **settings)


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_sample": True, "temperature": 3.0, "num_return_sequences": 4}, {"num_beams": 3}],
    ids=["greedy", "sampled", "beams"],
)
@pytest.mark.parametrize("prompts", [PROMPTS, ["the same beginning " * 12 + each for each in PROMPTS]])
def test_a_random_model_writes_the_beginnings_of_queries(
    base: Base, prompts: list[str], settings: dict[str, Any]
) -> None:
    texts = list(written(base, prompts, **settings))
    assert len(texts) == len(prompts) * settings.get("num_return_sequences", 1)
    for text in texts:
        assert text
        assert WORDS.read(Place(), text) is not None, text


class Wishes:
    """Scores that wish for a text, next token by next token, and else for tokens in an order of their own."""

    def __init__(self, base: Base, text: str) -> None:
        self.ids = [*base.tokenizer(text, add_special_tokens=False)["input_ids"], base.tokenizer.eos_token_id]
        self.size = len(base.tokenizer)

    def scores(self, step: int) -> torch.Tensor:
        scores = -torch.arange(float(self.size))
        scores[self.ids[step]] = 1.0
        return scores[None]


def test_a_right_query_is_left_alone(base: Base) -> None:
    wishes = Wishes(base, "SELECT COUNT(*) FROM mf_info WHERE fnd_type = 'bond' AND mgt_fee > 0.5")
    constraint = OnlyKnownWords([WORDS], base.tokenizer, ends(base))
    for step, wanted in enumerate(wishes.ids):
        given = torch.tensor([[5, 6, *wishes.ids[:step]]])
        assert constraint(given, wishes.scores(step)).argmax() == wanted


def test_what_is_no_name_gives_way_to_the_likeliest_that_may_be(base: Base) -> None:
    begun = base.tokenizer("SELECT ", add_special_tokens=False)["input_ids"]
    constraint = OnlyKnownWords([WORDS], base.tokenizer, ends(base))
    for end in range(len(begun) + 1):  # as generation does, a token at a time
        found = constraint(torch.tensor([[5, *begun[:end]]]), Wishes(base, "#").scores(0))
    kept = {base.tokenizer.decode(token) for token in found[0].isfinite().nonzero().flatten()}
    assert kept
    assert all(WORDS.read(Place(), f"SELECT {text}") is not None for text in kept)


def test_a_letter_may_come_in_parts(tmp_path: Path) -> None:
    base = load_base(tiny.save_llama(tmp_path))
    parts = base.tokenizer("基", add_special_tokens=False)["input_ids"]
    assert len(parts) == 3  # this tokenizer knows bytes alone of it
    told = Database("own", (Table("基金", (Column("x", "INTEGER"),)),))
    constraint = OnlyKnownWords([QueryWords(told, "sqlite")], base.tokenizer, ends(base))
    for text, allowed in (("SELECT x FROM 基金", True), ("SELECT x FROM 金基", False)):
        ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
        constraint = OnlyKnownWords([QueryWords(told, "sqlite")], base.tokenizer, ends(base))
        row = torch.zeros(1, 0, dtype=torch.long)
        kept = []
        for token in ids:
            scores = torch.full((1, len(base.tokenizer)), -5.0)
            scores[0, token] = 1.0
            kept.append(bool(constraint(row, scores)[0, token] > -torch.inf))
            row = torch.cat([row, torch.tensor([[token]])], dim=1)
        assert all(kept) is allowed


def test_an_answer_that_is_over_is_left_alone(base: Base) -> None:
    constraint = OnlyKnownWords([WORDS], base.tokenizer, ends(base))
    eos = base.tokenizer.eos_token_id
    constraint(torch.tensor([[5]]), torch.zeros(1, len(base.tokenizer)))
    scores = torch.randn(1, len(base.tokenizer))
    assert torch.equal(constraint(torch.tensor([[5, eos]]), scores), scores)


def test_each_prompt_has_its_own_words(base: Base) -> None:
    equities = QueryWords(database("equities"), "sqlite")
    constraint = OnlyKnownWords([WORDS, equities], base.tokenizer, ends(base))
    texts = ["SELECT mf", "SELECT mf", "SELECT eq", "SELECT eq"]  # two answers to each of two prompts
    rows = [base.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for end in range(len(rows[0]) + 1):
        found = constraint(torch.tensor([[5, *row[:end]] for row in rows]), torch.zeros(4, len(base.tokenizer)))
    go_on = [{base.tokenizer.decode(token) for token in row.isfinite().nonzero().flatten()} for row in found]
    assert go_on == [{"_"}] * 4
    swapped = OnlyKnownWords([equities, WORDS], base.tokenizer, ends(base))
    for end in range(len(rows[0]) + 1):
        found = swapped(torch.tensor([[5, *row[:end]] for row in rows]), torch.zeros(4, len(base.tokenizer)))
    assert found.isfinite().all()  # nothing goes on so, so nothing is kept out


def test_a_token_keeps_the_space_that_it_begins_with(base: Base) -> None:
    constraint = OnlyKnownWords([WORDS], base.tokenizer, ends(base))
    for text in (" red", "red", " ", "'"):
        ids = base.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(constraint._text((token,)) for token in ids) == text
