"""``torch.compile`` for training: the layers of a model as one graph, whatever the lengths of its batches.

What runs before the head is compiled, and only where there are gradients: evaluation runs as ever, so its batches
compile nothing. Rows are a symbol in the graph, so a batch of another length is no reason to compile again, and the
attention of a packed batch is an operator of its own (see :mod:`deltatune.packing.opaque`), so another layout is none
either. The loss, which makes its gradient as it goes, and hooks on the whole stack stay outside.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.attention import PACKED, attention_sites, packed_attention
from deltatune.attachment.bank import bank_of
from deltatune.attachment.stacks import stacks_of
from deltatune.errors import SiteError
from deltatune.packing.opaque import NUMBER, Ticket
from deltatune.packing.path import standing_in

__all__ = ["Compilation", "compiled", "why_not_compiled"]


@dataclass
class Compilation:
    """What has been compiled up to now."""

    seconds: float = 0.0
    """The time it took, of forward and backward."""
    graphs: int = 0
    """How many graphs of forward passes: one a stack, unless something in the model breaks it."""
    recompiled: int = 0
    """How many more since something that was compiled in has changed. A batch of another length is none."""

    def __str__(self) -> str:
        again = f", {self.recompiled} compiled again" if self.recompiled else ""
        return f"compiled in {self.seconds:.0f} s: {self.graphs} graph{'s' * (self.graphs != 1)}{again}"


@contextlib.contextmanager
def compiled(model: nn.Module, *, backend: str = "inductor", mode: str | None = None) -> Iterator[Compilation]:
    """Within this context what runs before the head of ``model`` is compiled, in training.

    What has been compiled is let go at the end, and the model is as before.

    Args:
        model: the model with its deltas, which stay the same ones meanwhile.
        backend: as for ``torch.compile``.
        mode: as there.
    """
    report = Compilation()
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(_watched(report))
        modules = _attention(model)
        stack.enter_context(_numbered(modules))
        for site in stacks_of(model):
            if site is not None:
                run = torch.compile(site.module.forward, backend=backend, mode=mode, dynamic=True)
                stack.enter_context(standing_in(site.module, _Forward(site.module, run, modules, watch)))
        yield report


def why_not_compiled(model: nn.Module) -> str | None:
    """What stands in the way of compiling a model with its deltas, or ``None``."""
    changing = [delta.name for delta in bank_of(model) if delta.is_in_place]
    return f"{changing[0]!r}, which trains weights of the base" if changing else None


class _Forward:
    """A stack's ``forward`` that runs compiled in training."""

    def __init__(self, stack: nn.Module, run: Any, attention: Sequence[nn.Module], watch: _Watch) -> None:
        self.stack, self.run, self.attention, self.watch = stack, run, attention, watch
        self.own = stack.forward
        functools.update_wrapper(self, self.own)  # for those who ask for the signature

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What is compiled is of one model; a copy of it has its own forward."""
        return copy.deepcopy(self.own, memo)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.stack.training and torch.is_grad_enabled()):
            return self.own(*args, **kwargs)
        with self.watch.call((self.stack, len(args), *kwargs)):
            layout = kwargs.pop(PACKED, None)
            if layout is None:
                return self.run(*args, **kwargs)
            ticket = Ticket(layout, self.attention, packed_attention)
            out = self.run(*args, **kwargs, **{PACKED: ticket.number})
        if out.last_hidden_state.requires_grad:
            out.last_hidden_state.register_hook(functools.partial(_hold, ticket))
        return out


def _hold(ticket: Ticket, grad: Tensor) -> None:
    """Nothing: a hook that lives as long as the graph, and the ticket with it."""


def _attention(model: nn.Module) -> list[nn.Module]:
    try:
        return [site.module for site in attention_sites(model)]
    except SiteError:  # then there are no packed batches
        return []


@contextlib.contextmanager
def _numbered(modules: Sequence[nn.Module]) -> Iterator[None]:
    for number, module in enumerate(modules):
        vars(module)[NUMBER] = number
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop(NUMBER, None)


class _Watch:
    """Notes what is compiled."""

    def __init__(self, report: Compilation) -> None:
        self.report = report
        self.begun = 0.0
        self.seen: set[Hashable] = set()
        self.is_new = True
        """Whether the call under way is the first of its kind."""

    @contextlib.contextmanager
    def call(self, kind: Hashable) -> Iterator[None]:
        """Within this context a stack is called; calls of one kind should be compiled once."""
        former, self.is_new = self.is_new, kind not in self.seen
        try:
            yield
        finally:
            self.seen.add(kind)
            self.is_new = former

    def start(self, args: Any) -> None:
        self.begun = time.perf_counter()
        if args.callback_trigger.name == "DYNAMO":  # else the backward pass of what has been counted
            self.report.graphs += self.is_new
            self.report.recompiled += not self.is_new

    def end(self, args: Any) -> None:
        self.report.seconds += time.perf_counter() - self.begun


@contextlib.contextmanager
def _watched(report: Compilation) -> Iterator[_Watch]:
    """Within this context ``report`` counts what is compiled. Nothing public tells; a test fails when this moves."""
    from torch._dynamo.callback import callback_handler as handler

    watch = _Watch(report)
    start, end = handler.register_start_callback(watch.start), handler.register_end_callback(watch.end)
    try:
        yield watch
    finally:
        for callbacks, ours in ((handler.start_callbacks, start), (handler.end_callbacks, end)):
            if ours in callbacks:  # torch.compiler.reset clears them
                callbacks.remove(ours)
