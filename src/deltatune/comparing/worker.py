"""The processes that runs happen in, from within: ``python -m deltatune.comparing.worker``.

It imports the libraries once, does nothing with them, and reads jobs from its standard input, a line each. For each it
forks, so that a run starts in a moment, its memory is its own, and a crash is no one else's. Where a fork is not safe
(a GPU that was asked for is lost to it) every job has a fresh process. On standard output it answers each job with the
exit status of its process. All of them end when standard input does: when whoever gives the jobs is gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path

from deltatune.comparing.trials import LOG, Job
from deltatune.io.atomic import write_json
from deltatune.methods import METHODS
from deltatune.train.plot import can_plot

__all__ = ["main"]

ONE = "--one"
_DRAWING = ("matplotlib.figure", "matplotlib.backends.backend_agg")


def main() -> None:
    """Serve jobs until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    import torch

    methods = (f"deltatune.methods.{key}" for key in METHODS)
    for name in ("deltatune.comparing.measuring", *methods, *(_DRAWING if can_plot() else ())):
        importlib.import_module(name)  # what jobs need
    forks = sys.platform == "linux" and not torch.accelerator.is_available()
    gc.freeze()  # what was imported stays; to look through it for garbage in each process takes time
    for line in sys.stdin:
        print(_forked(line) if forks else _spawned(line), file=answers, flush=True)


def _forked(line: str) -> int:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            code = _work(Job.from_line(line))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _spawned(line: str) -> int:
    return subprocess.run([sys.executable, "-m", __spec__.name, ONE, line], check=False).returncode


def _work(job: Job) -> int:
    """Do a job in this process; returns its exit status."""
    from deltatune.comparing.measuring import JOBS

    threading.Thread(target=_end_with_input, daemon=True).start()
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    job.failure.unlink(missing_ok=True)
    try:
        found = JOBS[job.kind](job)
        write_json(job.answer, {"identity": job.identity, **found})
        return 0
    except BaseException as error:
        traceback.print_exc()
        write_json(job.failure, {"reason": _reason(error)})
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with_input() -> None:
    """End this process, whatever it does, when nobody is there any more to give jobs."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _reason(error: BaseException) -> str:
    from deltatune.errors import DeltaError

    first = (str(error).strip() or "no message").splitlines()[0]
    return first if isinstance(error, DeltaError) else f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    if sys.argv[1:2] == [ONE]:
        sys.exit(_work(Job.from_line(sys.argv[2])))
    main()
