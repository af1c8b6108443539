"""What a method does around an optimiser's step, in whatever loop the step is taken.

Some methods mask gradients, restart, or move their budget as training goes on. They do it in hooks on the optimiser,
so ``dt.Trainer``, TRL's trainers and a plain loop all run them after one call of :func:`on_step`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.attachment.delta import Delta
from deltatune.train.distributed import drawing_alike

__all__ = ["Step", "Steps", "on_step", "prepare"]


@dataclass
class Step:
    """A step of the optimiser, as a method sees it."""

    optimizer: torch.optim.Optimizer
    number: int
    """How many steps were finished before this one."""
    total: int | None
    """How many steps the run will have, where that is known."""
    rates: dict[int, Any] = field(default_factory=dict, repr=False)
    """The scheduled learning rates of the groups whose rate is another for this step, by the group's number."""

    def scale_learning_rate(self, delta: Delta, factor: float) -> None:
        """Take this one step with ``factor`` times the scheduled learning rate, for the groups that hold ``delta``.

        Where several deltas share a group and ask for it, the smallest rate is taken.
        """
        own = {id(parameter) for parameter in delta.parameters()}
        for number, group in enumerate(self.optimizer.param_groups):
            if any(id(parameter) in own for parameter in group["params"]):
                scheduled = self.rates.setdefault(number, group["lr"])
                group["lr"] = min(group["lr"], scheduled * factor)


class Steps:
    """The hooks on one optimiser; :meth:`remove` takes them off."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, total: int | None) -> None:
        self.model, self.total = model, total
        self.current: dict[str, Step] = {}
        self.rates: dict[int, Any] = {}
        self.handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def remove(self) -> None:
        """Take the hooks off the optimiser."""
        while self.handles:
            self.handles.pop().remove()

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if _overflowed(optimizer):
            return
        with drawing_alike(_device(optimizer)):
            for delta in bank_of(self.model):
                if delta.is_trainable:
                    number = int(delta.steps)  # waits for the device, so once
                    if not number:
                        _warn_of_idle_sites(delta)
                    step = self.current[delta.name] = Step(optimizer, number, self.total, self.rates)
                    delta.method.before_step(delta, step)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        while self.rates:  # the scheduled ones, for the scheduler to go on from
            number, rate = self.rates.popitem()
            optimizer.param_groups[number]["lr"] = rate
        with drawing_alike(_device(optimizer)):
            for delta in bank_of(self.model):
                if delta.name in self.current:
                    _count_as_written(delta)
                    step = self.current.pop(delta.name)
                    delta.method.after_step(delta, step)
                    delta.steps += 1
        bank_of(self.model).in_place.renew()


def _overflowed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimiser was told by the scaler of float16 gradients that it is to skip this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _device(optimizer: torch.optim.Optimizer) -> torch.device:
    return optimizer.param_groups[0]["params"][0].device  # type: ignore[no-any-return]


def _warn_of_idle_sites(delta: Delta) -> None:
    """A module whose weight is read by another one's function is never called, and what acts there never trains."""
    trained = {site: [p for p in part.parameters() if p.requires_grad and p.numel()] for site, part in delta.items()}
    trained = {site: own for site, own in trained.items() if own}
    idle = [site for site, own in trained.items() if all(parameter.grad is None for parameter in own)]
    if delta.enabled and 0 < len(idle) < len(trained):  # of one that was not met at all there is nothing to say
        warnings.warn(
            f"delta {delta.name!r}: expected gradients at {len(trained)} sites, found none at "
            f"{len(idle)} in the first step, such as {idle[0]}; if the model reads their weights without calling them, "
            "exclude them",
            stacklevel=3,
        )


@torch.no_grad()
def _count_as_written(delta: Delta) -> None:
    """Raise the version of each trained tensor, by which others see that it has changed.

    Fused optimisers write without doing so. Writing nothing into an empty view of a tensor raises its version.
    """
    for parameter in delta.parameters():
        if parameter.grad is not None:
            parameter.as_strided((0,), (1,)).zero_()


def on_step(model: nn.Module, optimizer: torch.optim.Optimizer, *, total_steps: int | None = None) -> Steps:
    """Let the deltas of ``model`` do what their methods do around each ``optimizer.step()``.

    Call it once, after the optimiser is made. ``dt.Trainer`` does it by itself.

    Args:
        model: a model with deltas.
        optimizer: what trains them; a wrapper of Accelerate passes the hooks on.
        total_steps: how many steps the run will have; methods with a schedule need it. Default: unknown.

    Returns:
        The hooks; ``remove()`` takes them off.

    Raises:
        AttachError: nothing is attached.
    """
    bank_of(model)
    return Steps(unwrap(model), getattr(optimizer, "optimizer", optimizer), total_steps)


def prepare(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    """Let the methods that need it look at the training data before the first step.

    Args:
        model: a model with deltas.
        batches: keyword arguments of the model's forward pass, with labels; gone through once for each such method, and
            not at all if there is none. ``dt.Trainer`` does it by itself.
    """
    for delta in bank_of(model):
        if delta.is_trainable and not int(delta.steps):
            delta.method.prepare(delta, batches)
