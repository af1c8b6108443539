"""Writes that happen whole or not at all, whenever the process ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deltatune as dt
from deltatune.io.atomic import atomic_files
from deltatune.io.files import CONFIG, TENSORS
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES
from tests.models.tools import stir

FAMILY = FAMILIES["llama"]

KILLS = """
import os
import signal
import sys
import time
import torch
import deltatune as dt
from deltatune.methods.lora import LoRA
from tests.models.families import FAMILIES

torch.set_num_threads(1)
folder, rounds = sys.argv[1], int(sys.argv[2])
for round in range(rounds):
    child = os.fork()
    if not child:
        model = FAMILIES["llama"].model()
        delta = dt.attach(model, LoRA(r=16, targets=("all_linear",)))
        for count in range(1_000_000):
            with torch.no_grad():
                for parameter in delta.parameters():
                    parameter.fill_(count % 7)
            dt.save(delta, folder)
    while not os.path.exists(os.path.join(folder, "adapter_model.safetensors")):
        time.sleep(0.01)
    time.sleep(0.05 + round * 0.0037)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    # Whatever is left is one whole delta: every tensor of it was filled with one and the same number.
    delta = dt.load(FAMILIES["llama"].model(), folder)
    (value,) = {float(number) for parameter in delta.parameters() for number in parameter.unique()}
    print(value)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts a process for each kill, which takes long without fork")
def test_a_delta_that_is_killed_while_it_is_saved_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLS, str(tmp_path / "delta"), "20"]
    root = Path(__file__).parents[2]
    found = subprocess.run(arguments, cwd=root, check=True, capture_output=True, text=True).stdout.split()
    assert len(found) == 20
    assert set(map(float, found)) <= set(range(7))
    # The kills have to hit while something is being written, at least some of the time.
    assert list((tmp_path / "delta").glob(".writing-*"))


def test_what_a_killed_write_leaves_does_not_disturb_the_next(tmp_path: Path) -> None:
    model = FAMILY.model()
    delta = stir(dt.attach(model, LoRA(r=2)))
    left = tmp_path / ".writing-killed"
    left.mkdir()
    (left / TENSORS).write_bytes(b"half")
    dt.save(delta, tmp_path)
    other = FAMILY.model()
    dt.load(other, tmp_path)
    torch.testing.assert_close(FAMILY.forward(other), FAMILY.forward(model))


def test_files_appear_all_together_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    with atomic_files(tmp_path) as scratch:
        (scratch / "old").write_text("new")
        (scratch / "more").write_text("more")
        assert (tmp_path / "old").read_text() == "old"
        assert not (tmp_path / "more").exists()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "new", "more": "more"}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "old").write_text("old")

    def write() -> None:
        with atomic_files(tmp_path) as scratch:
            (scratch / "old").write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "old"}


def test_everything_is_on_the_disk_before_the_first_file_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    replace, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (happened.append("sync"), sync(file))[1])
    monkeypatch.setattr(os, "replace", lambda one, other: (happened.append("replace"), replace(one, other))[1])
    with atomic_files(tmp_path) as scratch:
        for name in "ab":
            (scratch / name).write_text(name)
    assert happened == ["sync", "sync", "replace", "replace", "sync"]


def test_the_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    model = FAMILY.model()
    (tmp_path / "plain").write_text("")
    dt.save(dt.attach(model, LoRA(r=2)), tmp_path)
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes[TENSORS] == modes[CONFIG] == modes["plain"]


def test_a_folder_that_can_not_be_written_to_is_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with contextlib.suppress(OSError), atomic_files(tmp_path / "file"):
        pytest.fail("a file is no folder")
