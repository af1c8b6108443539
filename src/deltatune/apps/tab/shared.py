"""Bases that classifiers share: loaded once for all folds and seeds, and always left as they were found.

A fitted classifier keeps its delta to itself. It is on the base only while it is trained or asked, so any number of
classifiers use one base without a trace of each other, and one that is dropped leaves nothing to clean up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

import deltatune as dt
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import add
from deltatune.io.bases import Base, Dtype, load_base
from deltatune.train.opening import best_device

__all__ = ["SharedBase", "shared_base"]

KEPT = 2
"""How many bases are kept in memory though no classifier uses them: a language model and an encoder, say."""


@dataclass(frozen=True, eq=False)
class SharedBase:
    """A base that one classifier uses at a time."""

    base: Base
    lock: threading.RLock = field(default_factory=threading.RLock)

    @contextlib.contextmanager
    def using(self, delta: Delta | None) -> Iterator[Base]:
        """Within this context the base acts with ``delta``, and with nothing else; ``None`` for the base alone."""
        with self.lock:
            if delta is None:
                yield self.base
                return
            add(self.base.model, delta).enable()
            try:
                yield self.base
            finally:
                dt.detach(self.base.model, delta)

    def load(self, folder: Path) -> Delta:
        """The delta that a folder holds, which is off the base again."""
        with self.lock:
            delta = dt.load(self.base.model, folder)
            dt.detach(self.base.model, delta)
        return delta


@lru_cache(maxsize=KEPT)
def shared_base(
    source: str, *, task: str = "auto", dtype: Dtype = "auto", device: str | None = None, classes: int | None = None
) -> SharedBase:
    """The base of these settings, which is loaded if it is not among the last ones.

    Args:
        source: as `dt.load_base` takes it.
        task: as there.
        dtype: as there.
        device: as there. Default: the GPU if there is one.
        classes: how many a fresh classification head has. It starts the same in every process.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = load_base(source, task=task, dtype=dtype, device=device or best_device(), num_labels=classes)
    return SharedBase(base)
