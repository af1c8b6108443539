"""Functions run in processes of their own, several together or one that kills itself.

The processes are forked from one that has imported the libraries and done nothing else, so each starts in a moment.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "deltatune.train.run",
        "torch.distributed.fsdp",
        "accelerate.commands.launch",
        "matplotlib.figure",
        "pytest",
        "tests.processes",
        "tests.cli.tiny",
        "tests.models.families",
        "tests.packing.texts",
    ]
)


def together(function: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What ``function(*args)`` returns in each of ``world`` processes that find each other as Accelerate's do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        environment = {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(_start(_in_group, environment, function, *args))
    results = [_received(answer) for _, answer in started]  # before they end: a pipe holds little
    for process, _ in started:
        process.join(5)
        if process.is_alive():  # it waits for one that failed
            process.kill()
            process.join()
    codes = [process.exitcode for process, _ in started]
    assert not any(codes), f"exit codes {codes}; see the output"
    return results


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """What ``function(*args)`` returns in a process of its own, or ``None`` if that was killed by SIGKILL."""
    process, answer = _start(function, *args)
    result = _received(answer)
    process.join(60)
    assert process.exitcode == (-signal.SIGKILL if result is None else 0)
    return result


def _received(answer: Connection) -> Any:
    """What a process answers, or ``None`` if it ends, or a minute passes, without an answer."""
    try:
        return answer.recv() if answer.poll(60) else None
    except EOFError:
        return None


def _start(function: Callable[..., Any], *args: Any) -> tuple[Any, Connection]:
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(theirs, function, *args), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _run(answer: Connection, function: Callable[..., Any], *args: Any) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what was imported stays; to look through it for garbage takes longer than a run
    answer.send(function(*args))


def _in_group(environment: dict[str, Any], function: Callable[..., Any], *args: Any) -> Any:
    os.environ.update({name: str(value) for name, value in environment.items()})
    try:
        return function(*args)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def shard_on_cpu() -> None:
    """Let Accelerate shard on the CPU, which it does on other devices only; everything below it can."""
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    own = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        own(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


FILE_EVENTS = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir")


def count_file_events(folder: Path, last: int | None = None) -> Callable[[], int]:
    """Count what happens to files below ``folder`` from now on; at event number ``last`` kill this process."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_EVENTS and isinstance(args[0], (str, os.PathLike)) and str(folder) in os.fspath(args[0]):
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(hook)
    return lambda: count


def points(seed: str, events: int, number: int) -> list[int]:
    """Random moments to be killed at, the same for a seed."""
    return random.Random(seed).choices(range(events), k=number)
