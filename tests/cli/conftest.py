"""Models in folders, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import tiny


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def plain_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a chat template."""
    return tiny.save_llama(tmp_path_factory.mktemp("plain"), chat=False)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with training data in it."""
    tiny.write_jsonl(tmp_path / "train.jsonl", tiny.pairs(24))
    tiny.write_jsonl(tmp_path / "test.jsonl", tiny.pairs(6))
    (tmp_path / "train.csv").write_text(tiny.labelled(32))
    return tmp_path
