"""The data are split once, and what is for judging is never chosen by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deltatune.comparing.splits import SearchData, split
from deltatune.errors import DeltaError
from deltatune.train.config_file import load_config
from tests.cli import tiny


def rows(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.jsonl").read_text().splitlines()


def test_a_share_for_evaluation_is_in_no_other_part(folder: Path, llama: Path) -> None:
    tiny.write_jsonl(folder / "train.jsonl", [{"prompt": str(i), "completion": "red"} for i in range(40)])
    config = load_config(tiny.write_config(folder, llama, data={"eval_share": 0.25}))
    found = split(config, folder / "data", SearchData(0.2))
    found.write()
    assert found.counts == {"train": 30, "eval": 10, "search-train": 24, "search-eval": 6}
    train, evaluated, searched, judged = (set(rows(folder / "data", name)) for name in found.counts)
    assert len(train | evaluated) == 40
    assert searched | judged == train
    assert not searched & judged
    assert split(config, folder / "again", SearchData(0.2)).rows == found.rows


def test_a_file_for_the_search_leaves_all_training_data(folder: Path, write: Path) -> None:
    found = split(load_config(write), folder / "data", SearchData(file=str(folder / "test.jsonl")))
    assert found.counts == {"train": 16, "eval": 6, "search-train": 16, "search-eval": 6}


def test_the_limit_and_the_classes_of_all_data(folder: Path, classify: Path) -> None:
    found = split(load_config(classify, ["data.limit=12"]), folder / "data", SearchData(0.5))
    assert found.counts == {"train": 12, "eval": 12, "search-train": 6, "search-eval": 6}
    assert found.labels == ("cold", "warm")
    found.write()
    data = found.data(load_config(classify).data, searching=True)
    assert (data["eval"], data["limit"]) == (str(folder / "data" / "search-eval.jsonl"), None)
    assert json.loads(rows(folder / "data", "train")[0]) == {"text": "red red", "label": "warm"}


@pytest.mark.parametrize(
    ("data", "share", "message"),
    [
        ({}, 0.2, "data: expected data to judge by, found none; set data.eval to a file"),
        ({"eval_share": 0.99}, 0.2, "data.eval_share: expected one that leaves data to train on"),
        ({"eval_share": 0.5}, 0.99, "search share: expected one that leaves data"),
    ],
)
def test_what_leaves_nothing_is_refused(
    folder: Path, llama: Path, data: dict[str, Any], share: float, message: str
) -> None:
    config = load_config(tiny.write_config(folder, llama, data=data))
    with pytest.raises(DeltaError, match=message):
        split(config, folder / "data", SearchData(share))
