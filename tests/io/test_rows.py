"""Rows on disk: found again bit for bit, by other runs and processes, or not at all."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from deltatune.io import rows as stores
from deltatune.io.rows import RowStore, TextRows

WIDTH = 6


def batch(*texts: list[int]) -> list[TextRows]:
    """Texts by the rows that they have in a batch; their keys follow from these."""
    return [TextRows(bytes([*text, *[255] * (16 - len(text))]), np.array(text, np.int64)) for text in texts]


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (count, WIDTH), np.uint8)


def added(folder: Path, texts: list[TextRows], count: int = 10, seed: int = 0) -> np.ndarray:
    store, given_rows = RowStore(folder, "x"), rows(count, seed)
    store.add("float32", given_rows, texts)
    store.close()
    return given_rows


Open = Callable[..., RowStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens stores, by their fingerprints, that are closed when the test is over."""
    with contextlib.ExitStack() as stack:

        def start(fingerprint: str = "x") -> RowStore:
            store = RowStore(tmp_path, fingerprint)
            stack.callback(store.close)
            return store

        yield start


def of(folder: Path, kind: str) -> Path:
    (path,) = folder.glob(f"*.{kind}")
    return path


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sets(st.integers(0, 11), max_size=8), min_size=1, max_size=4), min_size=1, max_size=4))
def test_what_is_read_is_what_was_added(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[set[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    store, expected = RowStore(folder, "x"), {}
    for number, members in enumerate(batches):
        texts = batch(*map(sorted, members))
        given_rows = rows(12, number)
        store.add("float32", given_rows, texts)
        for text in texts:
            expected.setdefault(text.key, given_rows[text.rows])
    store.close()
    store = RowStore(folder, "x")
    for members in batches:
        texts = batch(*map(sorted, members))
        assert store.has(texts)
        if not any(len(text.rows) for text in texts):
            continue
        kind, found = store.read(texts, 12)
        assert kind == "float32"
        done: set[int] = set()
        for text in texts:
            for row, value in zip(text.rows.tolist(), expected[text.key], strict=True):
                assert row in done or (found[row] == value).all()
                done.add(row)
        assert not found[sorted(set(range(12)) - done)].any()
    store.close()


def test_rows_that_texts_share_are_written_once(tmp_path: Path) -> None:
    added(tmp_path, batch([0, 1, 2], [0, 1, 5], [7]))
    assert of(tmp_path, "rows").stat().st_size == 5 * WIDTH


def test_rows_of_something_else_are_removed(tmp_path: Path, opened: Open) -> None:
    added(tmp_path, batch([1]))
    other = opened("y")
    assert not other.has(batch([1]))
    assert not list(tmp_path.glob("*.rows"))
    other.close()
    assert not opened().has(batch([1]))


def test_what_no_index_speaks_of_is_not_there(tmp_path: Path, opened: Open) -> None:
    store, given_rows = opened(), rows(10)
    store.add("float32", given_rows, batch([1, 2]))
    store.commit()
    store.add("float32", given_rows, batch([3, 4]))
    other = opened()  # as after a crash; the first may be at work, so nothing is removed
    assert other.has(batch([1, 2]))
    assert not other.has(batch([3, 4]))
    assert (other.read(batch([1, 2]), 10)[1][1:3] == given_rows[1:3]).all()


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from deltatune.io import rows as stores

store, moment = stores.RowStore(Path(sys.argv[1]), "x"), sys.argv[2]
text = stores.TextRows(bytes(16), np.arange(3))
store.add("float32", np.full((3, 6), 7, np.uint8), [text])
store.commit()

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "rows":
    stream = next(iter(store.writers.values())).stream
    stream.write(b"half a row"), stream.flush(), die()
if moment == "index":
    stores.save_file = lambda tensors, path, about: (path.write_bytes(b"half an index"), die())
if moment == "rename":
    os.replace = die
store.add("float32", np.full((3, 6), 8, np.uint8), [text._replace(key=bytes([1] * 16))])
store.commit()
"""


@pytest.mark.parametrize("moment", ["rows", "index", "rename"])
def test_a_process_that_is_killed_leaves_what_it_had_committed(moment: str, tmp_path: Path, opened: Open) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], check=False).returncode == -9
    store = opened()
    assert len(store) == 1
    assert (store.read([TextRows(bytes(16), np.arange(3))], 3)[1] == 7).all()
    assert not list(tmp_path.glob(".writing-*"))
    store.close()


@pytest.mark.parametrize("damage", ["no rows", "short rows", "cut index", "other index", "spans"])
def test_an_index_that_does_not_fit_is_not_used(damage: str, tmp_path: Path, opened: Open) -> None:
    added(tmp_path, batch([1, 2], [3]))
    index, its_rows = of(tmp_path, "index"), of(tmp_path, "rows")
    if damage == "no rows":
        its_rows.unlink()
    elif damage == "short rows":
        its_rows.write_bytes(its_rows.read_bytes()[:-1])
    elif damage == "cut index":
        index.write_bytes(index.read_bytes()[:-1])
    else:
        tensors = load_file(index)
        tensors["spans"] = -tensors["spans"] - 1 if damage == "spans" else tensors["spans"][:-1]
        save_file(tensors, index, {"fingerprint": "x", "kind": "float32", "width": str(WIDTH)})
    store = opened()
    assert not len(store)
    assert not index.exists()
    store.close()


def test_processes_find_what_others_have_committed(tmp_path: Path, opened: Open) -> None:
    one, two = opened(), opened()
    first, second = rows(10, 1), rows(10, 2)
    one.add("float32", first, batch([1, 2]))
    two.add("float32", second, batch([3, 4]))
    assert not one.has(batch([3, 4]))
    one.commit(), two.commit()
    both = batch([1, 2], [3, 4])
    assert one.has(both)
    assert two.has(both)
    for store in (one, two):
        found = store.read(both, 10)[1]
        assert (found[1:3] == first[1:3]).all()
        assert (found[3:5] == second[3:5]).all()
    other = opened("y")  # removes nothing under their hands
    assert not other.has(batch([1, 2]))
    for store in (one, two, other):
        store.close()
    assert opened().has(both)


def test_an_index_is_written_from_time_to_time(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "WAIT", 0.0)
    store = opened()
    store.add("float32", rows(10), batch([1]))
    assert opened().has(batch([1]))


def test_a_full_disk_ends_the_keeping_and_nothing_else(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    store.add("float32", rows(10), batch([1]))
    store.commit()

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(next(iter(store.writers.values())), "append", full)
        with pytest.warns(UserWarning, match=r"no more is cached from here on: .*No space left.*; make room"):
            store.add("float32", rows(10), batch([2]))
    store.add("float32", rows(10), batch([3]))
    assert store.has(batch([1]))
    assert not store.has(batch([2]))
    assert not store.has(batch([3]))
    store.close()
    assert opened().has(batch([1]))
