"""Processes that take turns: one step each, then the next, so that a noisy machine slows all of them alike.

The parent writes a line, the worker does a step and writes back what it took, as JSON. Nothing here needs torch: a
process counts its parent's memory as its own until it becomes another program, so the parent has to stay small.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Worker:
    """The parent's end: a process that does a step whenever it is told to."""

    def __init__(self, script: str, *arguments: str, log: Path) -> None:
        self.log = log
        command = [sys.executable, str(Path(__file__).parent / script), *arguments]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._read()  # it is ready

    def step(self) -> dict[str, Any]:
        """One turn: what `Turns.take` said of it."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has stopped, which reading tells better
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """No more turns."""
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()  # negative for the signal that ended it: -9 where memory ran out
            raise SystemExit(f"{self.process.args} ended with {code}: {self.log.read_text()[-2000:]}")
        return json.loads(line)  # type: ignore[no-any-return]


class Turns:
    """The worker's end. What anyone else prints in this process goes to standard error."""

    def __init__(self) -> None:
        self.channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.begun: tuple[float, float] | None = None

    def take(self, **facts: Any) -> None:
        """Say what the last turn took, with ``facts``, and wait for the next; ends the process if there is none."""
        if self.begun is not None:
            facts["seconds"], facts["CPU seconds"] = (
                now - then for now, then in zip(_clocks(), self.begun, strict=True)
            )
            facts["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(facts), file=self.channel, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self.begun = _clocks()


def _clocks() -> tuple[float, float]:
    """Seconds of the wall and of the processor."""
    return time.perf_counter(), time.process_time()
