"""The processes that runs happen in, as seen from the one that compares."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any

from deltatune.comparing.trials import FAILURE, LOG, Job, read_json
from deltatune.errors import DeltaError

__all__ = ["Crew", "TrialError"]


class TrialError(DeltaError):
    """A run failed; the message is its reason, in one line."""


class Crew:
    """Does jobs, one after the other, each in a process of its own. A context: at its end the processes end too."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener: threading.Thread | None = None

    def start(self) -> None:
        """Begin to import the libraries, if that has not begun."""
        if self._server is None or self._server.poll() is not None:
            command = [sys.executable, "-m", "deltatune.comparing.worker"]
            self._server = subprocess.Popen(
                command,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )
            self._answers = queue.SimpleQueue()
            self._listener = threading.Thread(target=_listen, args=(self._server.stdout, self._answers), daemon=True)
            self._listener.start()

    def do(self, job: Job, watch: Callable[[], object] = lambda: None, every: float = 0.5) -> dict[str, Any]:
        """Do a job, unless it has been done before.

        Args:
            job: the job.
            watch: called now and then while it is done.
            every: how often, in seconds. Default: 0.5.

        Returns:
            What it found.

        Raises:
            TrialError: it failed.
        """
        found = job.done()
        if found is not None:
            return found
        self.start()
        assert self._server is not None
        assert self._server.stdin is not None
        try:
            self._server.stdin.write(job.to_line())
            self._server.stdin.flush()
            answer = self._awaited(watch, every)
        except BrokenPipeError:
            answer = ""
        except BaseException:
            self.end()  # the job with it; else its answer would be taken for that of the next
            raise
        if not answer:
            raise TrialError(f"the process of the runs ended by itself; see {job.folder}/{LOG}")
        found = job.done()
        if int(answer) == 0 and found is not None:
            return found
        raise TrialError(_why(job, int(answer)))

    def _awaited(self, watch: Callable[[], object], every: float) -> str:
        while True:
            try:
                return self._answers.get(timeout=every)
            except queue.Empty:
                watch()

    def end(self) -> None:
        """End the processes."""
        if self._server is not None and self._listener is not None and self._server.stdin is not None:
            self._server.stdin.close()
            self._server.wait()
            self._listener.join()
            self._server = None

    def __enter__(self) -> Crew:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def _listen(output: IO[str], answers: queue.SimpleQueue[str]) -> None:
    with output as lines:
        for line in lines:
            answers.put(line)
    answers.put("")


def _why(job: Job, status: int) -> str:
    reason = read_json(job.failure).get("reason")
    if reason:
        return str(reason)
    if status < 0:
        hint = "; the system kills what takes too much memory" if -status == signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-status).name}{hint}; see {job.folder}/{LOG}"
    return f"its process ended with status {status} without {FAILURE}; see {job.folder}/{LOG}"
