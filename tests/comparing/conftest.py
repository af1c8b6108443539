"""Models and data in folders, made once, and processes that are shared: they import the libraries once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deltatune.comparing.crew import Crew
from tests.cli import tiny


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    with Crew() as hands:
        yield hands


@pytest.fixture(autouse=True)
def _crew_for_all(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line takes the shared processes too, and leaves them running."""

    class Shared(Crew):
        def __init__(self) -> None:
            self._server, self._answers = crew._server, crew._answers

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("deltatune.comparing.study.Crew", Shared)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data in it."""
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.pairs(16))
    tiny.write_jsonl(tmp_path / "test.jsonl", tiny.pairs(6))
    (tmp_path / "train.csv").write_text(tiny.labelled(32))
    (tmp_path / "test.csv").write_text(tiny.labelled(16))
    return tmp_path


@pytest.fixture
def classify(folder: Path, bert: Path) -> Path:
    """The config of a small classifier."""
    return tiny.write_config(
        folder,
        bert,
        data={"train": str(folder / "train.csv"), "eval": str(folder / "test.csv")},
        train={"epochs": 2, "batch_size": 8},
    )


@pytest.fixture
def write(folder: Path, llama: Path) -> Path:
    """The config of a small language model."""
    return tiny.write_config(folder, llama, data={"eval": str(folder / "test.jsonl")})
