"""Narrators: a model tells each row once, and a classifier can read its texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

import deltatune as dt
from deltatune.apps.tab.serialize import Narrator, Serializer
from deltatune.io.bases import Base
from deltatune.train.complete import complete
from deltatune.train.prompting import prompt_tokens
from tests.apps.tab import bases

ROWS = pd.DataFrame({"age": [41, 65, 41], "job": ["cook", "clerk", "cook"]}, index=[7, 8, 9])
READ = Serializer(style="custom", template="{text}")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return dt.load_base(bases.llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the model wrote."""
    counts: list[int] = []

    def counted(base: Base, prompts: Sequence[Sequence[int]], **settings: Any) -> Any:
        counts.append(len(prompts))
        return complete(base, prompts, **settings)

    monkeypatch.setattr("deltatune.train.complete.complete", counted)
    return counts


def test_a_row_is_told_as_the_model_goes_on_from_its_list(base: Base) -> None:
    told = Narrator(base, instruction="Tell it.", max_new_tokens=5).fit_transform(ROWS)
    prompt = prompt_tokens(base, "Tell it.\n\n- age: 65\n- job: clerk\n\nText:")
    [alone] = complete(base, [prompt], max_new_tokens=5)
    assert told.columns.tolist() == ["text"]
    assert told.index.equals(ROWS.index)
    assert told.loc[8, "text"] == " ".join(alone.split())
    assert READ.fit(told).texts(told) == told["text"].tolist()


def test_a_row_is_told_once(base: Base, written: list[int], tmp_path: Path) -> None:
    file = tmp_path / "kept" / "told.json"
    narrator = Narrator(base, max_new_tokens=3, cache=file).fit(ROWS)
    first = narrator.transform(ROWS)
    assert written == [2]
    pd.testing.assert_frame_equal(narrator.transform(ROWS), first)
    pd.testing.assert_frame_equal(clone(narrator).fit_transform(ROWS), first)
    assert written == [2]
    assert len(json.loads(file.read_text())) == 2
    Narrator(base, max_new_tokens=4, cache=file).fit_transform(ROWS)
    assert written == [2, 2]


def test_where_the_model_writes_nothing_the_facts_stand(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "deltatune.train.complete.complete", lambda base, prompts, **settings: iter([" \n"] * len(prompts))
    )
    told = Narrator(base, Serializer()).fit_transform(ROWS.iloc[:1])
    assert told["text"].tolist() == ["The age is 41. The job is cook."]


def test_it_goes_into_a_pipeline_and_its_copies_share_the_model(base: Base) -> None:
    narrator = Narrator(base, max_new_tokens=3)
    assert clone(narrator).base is base
    assert make_pipeline(narrator, "passthrough").fit_transform(ROWS).shape == (3, 1)
    assert narrator.get_feature_names_out() == ["text"]
    with pytest.raises(NotFittedError):
        Narrator(base).transform(ROWS)
