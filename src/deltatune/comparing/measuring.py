"""What the process of a run does: train and see what it took, or see what it costs to use what was trained."""

from __future__ import annotations

import platform
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

import deltatune as dt
from deltatune.attachment.sites import fresh_heads
from deltatune.attachment.summary import summary
from deltatune.comparing.trials import Job, Kind
from deltatune.io.bases import Base
from deltatune.train.arguments import total_steps, training_arguments
from deltatune.train.collate import Collator
from deltatune.train.config import RunConfig
from deltatune.train.config_file import parse_config
from deltatune.train.evaluate import evaluate
from deltatune.train.folder import RunFolder
from deltatune.train.labels import LabelSet
from deltatune.train.opening import best_device
from deltatune.train.progress import memory_bytes
from deltatune.train.run import quiet, run
from deltatune.train.setup import encode, open_base, read_data, set_up

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["JOBS"]


def train(job: Job) -> dict[str, Any]:
    """Train a run, or go on with it, and tell what it reached and took."""
    idle = int(psutil.Process().memory_info().rss)
    config = _config(job.settings)
    if config is None:
        metrics = _evaluated(job)
        return {"metrics": metrics, **_took(idle, memory_bytes()), "file_bytes": 0, "resumed": False}
    folder = RunFolder(Path(job.folder))
    resumed = bool(folder.checkpoints())
    metrics = run(config, resume=True, progress=False).metrics
    took = _took(idle, metrics["memory_bytes"])
    for checkpoint in folder.checkpoints():
        shutil.rmtree(checkpoint)
    size = sum(file.stat().st_size for file in folder.final.rglob("*.safetensors"))
    return {"metrics": metrics, **took, "file_bytes": size, "resumed": resumed}


def inspect(job: Job) -> dict[str, Any]:
    """Count what a run trained, and measure what its delta adds to a forward pass."""
    config = _config(job.settings)
    if config is None:
        base = _base(job.settings, shapes_only=True)
        size = dt.summary(base.model).base_parameters
        return {"base_parameters": size, "trainable_parameters": 0, "overhead": 1.0, "merge": None, "steps": 0}
    with quiet():
        setup = set_up(config, shapes_only=True)
        counted = summary(setup.base.model)
        sizes = {
            "base_parameters": counted.base_parameters,
            "trainable_parameters": counted.trainable_parameters,
            "steps": total_steps(config, training_arguments(config), setup.train.examples),
        }
        return {**sizes, **_inference(config, RunFolder(Path(job.folder)).final)}


JOBS: dict[Kind, Callable[[Job], dict[str, Any]]] = {"train": train, "inspect": inspect}
"""What a process may be asked to do."""


def _config(settings: Mapping[str, Any]) -> RunConfig | None:
    """The settings of a run; without deltas, of one that trains the task head alone, or `None` if there is none."""
    if settings["deltas"]:
        return parse_config(settings, "config")
    heads = [site.name for site in fresh_heads(_base(settings, shapes_only=True).model)]
    if not heads:
        return None
    # An IA3 inside the head gives way to the head trained whole, so this is a delta of nothing but the head.
    inside = "|".join(map(re.escape, heads))
    head = {"method": "ia3", "targets": [rf"({inside})(\..+)?"], "train_also": heads}
    return parse_config({**settings, "deltas": [head]}, "config")


def _plain(settings: Mapping[str, Any]) -> RunConfig:
    """The settings of what has no delta; a config has to have one."""
    return parse_config({**settings, "deltas": [{"method": "lora"}]}, "config")


def _base(settings: Mapping[str, Any], *, shapes_only: bool = False) -> Any:
    config = _plain(settings)
    labels = LabelSet(config.data.labels) if config.data.labels else None
    with quiet():
        return open_base(config, labels, shapes_only=shapes_only)


def _where_it_trains(base: Base, config: RunConfig) -> Base:
    """The base on the device that a run would train it on; a quantised one is there already."""
    device = best_device()
    if device is not None and config.base.device is None and config.base.quant is None:
        base.model.to(device)  # type: ignore[arg-type]  # its stub knows no names of devices
    return base


def _evaluated(job: Job) -> dict[str, Any]:
    """The results of a run that trains nothing."""
    config = _plain(job.settings)
    base = _where_it_trains(_base(job.settings), config)
    records = read_data(config)
    data = encode(records.eval, base, config.data, records.labels)
    batch = config.train.eval_batch_size or config.train.batch_size
    scores = evaluate(base, data, batch_size=batch).metrics
    return {f"eval_{name}": value for name, value in scores.items()} | {"steps": 0, "tokens": 0, "seconds": 0.0}


def _took(idle: int, allocated: int) -> dict[str, Any]:
    """The most memory that this process had, what it had before it did anything, and where."""
    peak = allocated if torch.cuda.is_available() else max(_peak_bytes(), allocated)
    return {"memory_bytes": peak, "idle_bytes": 0 if torch.cuda.is_available() else idle, "machine": _machine()}


def _peak_bytes() -> int:
    """The most memory of this process. What getrusage tells may be that of the process which started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _machine() -> str:
    device = f"CPU, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    elif torch.accelerator.is_available():
        device = str(torch.accelerator.current_accelerator())
    return f"{device}, Python {platform.python_version()}, torch {torch.__version__}"


def _inference(config: RunConfig, final: Path) -> dict[str, Any]:
    """How much longer a forward pass is with the deltas on than off, and why they can not be merged, if so."""
    records = read_data(config)
    base = _where_it_trains(open_base(config, records.labels), config)
    folders = [final] if (final / "adapter_config.json").is_file() else [final / each.name for each in config.attached]
    deltas = [dt.load(base.model, folder) for folder in folders]
    reasons = [dt.capabilities(delta)["merge"] for delta in deltas]
    data = encode(records.eval[: config.train.batch_size], base, config.data, records.labels)
    batch = Collator.of(base.tokenizer)(data.examples)
    device = next(base.model.parameters()).device
    inputs = {name: value.to(device) for name, value in batch.items() if name != "labels" or base.task == "seq2seq-lm"}
    merge = next((reason for reason in reasons if reason), None)
    return {"overhead": _ratio(base.model.eval(), inputs), "merge": merge}


ROUNDS, SECONDS = (7, 60), 3.0
"""Rounds of a measurement at least and at most, and about how long it takes."""


@torch.no_grad()
def _ratio(model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """The time of a forward pass with the deltas on over that with them off: medians, in turns."""

    def timed() -> float:
        _wait()
        start = time.perf_counter()
        model(**inputs)
        _wait()
        return time.perf_counter() - start

    def off() -> float:
        with dt.disabled(model):
            return timed()

    on_times, off_times = _in_turns((timed, off))
    return statistics.median(on_times) / statistics.median(off_times)


def _in_turns(sides: Sequence[Callable[[], float]]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:  # the first pass of each makes what later ones keep
        side()
    began = time.perf_counter()
    for number in range(ROUNDS[1]):
        if number >= ROUNDS[0] and time.perf_counter() - began > SECONDS:
            break
        order = list(zip(sides, times, strict=True))
        for side, found in order if number % 2 else reversed(order):
            found.append(side())
    return times


def _wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
