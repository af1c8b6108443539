"""The order in which the modules of a stack run, seen on a few tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import bare
from deltatune.attachment.sites import base_modules
from deltatune.attachment.stacks import without_checkpoints
from deltatune.errors import ConfigError
from deltatune.train.kept import layers_of

__all__ = ["Moment", "Trace", "in_mode", "run_few", "states_in"]


@dataclass(frozen=True)
class Moment:
    """What there is when a layer begins."""

    over: int
    """How many modules have run."""
    open: tuple[str, ...]
    """What is running: whatever the layer is in."""
    drew: bool
    """Whether random numbers have been drawn since the stack began."""


class Trace:
    """Which modules of a stack run in what order, on a few tokens."""

    def __init__(self, model: nn.Module, stack: nn.Module) -> None:
        self.model, self.stack = model, stack
        inside = set(stack.modules())
        self.names = {module: name for name, module in base_modules(model) if module in inside}
        self.names.setdefault(stack, "")
        self.moments: dict[str, list[Moment]] = {name: [] for name in _outermost(layers_of(model), self.names)}
        self.open: list[tuple[str, Tensor]] = []
        self.over: list[str] = []
        self.drawing: list[str] = []
        """What drew random numbers, what is inside of another before it."""
        self.answers: dict[str, Any] = {}
        """What each layer answered."""

    @classmethod
    def of(cls, model: nn.Module, stack: nn.Module) -> Trace:
        trace = cls(model, stack)
        with contextlib.ExitStack() as hooks:
            for module in trace.names:
                hooks.callback(module.register_forward_pre_hook(trace._begin).remove)
                hooks.callback(module.register_forward_hook(trace._end).remove)
            run_few(model, stack)
        if len(trace.layers) < 2 or any(len(trace.moments[name]) != 1 for name in trace.layers):
            raise ConfigError(
                f"cache_trunk: expected layers that run one after the other, found none in {type(stack).__name__}; "
                "leave cache_trunk out"
            )
        return trace

    @property
    def layers(self) -> list[str]:
        """The layers that ran, in that order."""
        return sorted((n for n, ran in self.moments.items() if ran), key=lambda name: self.moments[name][0].over)

    def _begin(self, module: nn.Module, args: Any) -> None:
        name, drawn = self.names[module], _random_state(self.model)
        if name in self.moments:
            began = self.open[0][1] if self.open else drawn
            moment = Moment(len(self.over), tuple(name for name, _ in self.open), not torch.equal(drawn, began))
            self.moments[name].append(moment)
        self.open.append((name, drawn))

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        name, before = self.open.pop()
        self.over.append(name)
        if not torch.equal(_random_state(self.model), before):
            self.drawing.append(name)
        if name in self.moments:
            self.answers[name] = output


def _outermost(layers: Iterable[str], names: Mapping[nn.Module, str]) -> list[str]:
    """The layers of a stack that are in no other layer."""
    inside = set(names.values())
    own = [name for name in layers if name in inside]
    return [name for name in own if not any(name.startswith(f"{other}.") for other in own)]


@torch.no_grad()
def run_few(model: nn.Module, stack: Any) -> Any:
    """What a stack answers to two short texts, the deltas left aside."""
    ids = torch.tensor([[5, 6, 7, 4, 3], [6, 7, 5, 0, 0]], device=next(model.parameters()).device)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    try:
        with bare(model), without_checkpoints(stack):
            return stack(input_ids=ids, attention_mask=mask)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"cache_trunk: {type(stack).__name__}: {' '.join(str(error).split())}; leave cache_trunk out"
        ) from error


@contextlib.contextmanager
def in_mode(model: nn.Module, mode: bool = True) -> Iterator[None]:
    """Within this context all of ``model`` is in training, or nothing; random numbers go on as if nothing had run."""
    former = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.train(mode)
            yield
    finally:
        for module, training in former.items():
            module.training = training


def _random_state(model: nn.Module) -> Tensor:
    """The states of the generators that the model draws from."""
    device, state = next(model.parameters()).device, torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else state


def states_in(output: Any) -> Tensor | None:
    """The hidden states in what a layer answers."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None
