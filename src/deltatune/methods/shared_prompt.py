"""A prompt that a causal stack runs over once for a whole batch.

No token of P ever sees the text, so what the run leaves in each layer's attention, keys and values, is the same for
every row, and each layer gets it in front of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deltatune.attachment.attention import attention_sites
from deltatune.attachment.calls import Call, Stamp
from deltatune.attachment.part import Part, Rows
from deltatune.attachment.routing import Routing
from deltatune.attachment.sites import Site
from deltatune.attachment.stacks import (
    first_position,
    handed_to_checkpoints,
    is_rotary,
    record,
    shift_positions,
    takes_positions,
    without_checkpoints,
)
from deltatune.errors import AttachError, SiteError
from deltatune.methods.soft_prompt import PromptPart, SoftPrompt, embedding

__all__ = ["PromptRows", "SharedPrompt", "shared_rows"]


def shared_rows(model: nn.Module, stack: Site) -> dict[str, PromptRows]:
    """A part for each attention module, if tokens meet nowhere else; in a hybrid they do, so it gets none."""
    try:
        sites = [
            site for site in attention_sites(model) if site.name.startswith(f"{stack.name}." if stack.name else "")
        ]
    except SiteError:
        return {}
    layers = getattr(getattr(stack.module, "config", None), "num_hidden_layers", len(sites))
    convolves = any(isinstance(module, nn.Conv1d) for module in stack.module.modules())
    tells = is_rotary(model) or takes_positions(stack.module)
    return {site.name: PromptRows() for site in sites} if len(sites) == layers and tells and not convolves else {}


Run = list[tuple[Tensor, Tensor]]
"""The keys and values of P at each attention module of a stack, each ``[kv_heads, p, head_dim]``."""


class SharedPrompt(PromptPart):
    """Runs a causal stack once over P and hands each layer what that left in its attention."""

    runs_stack = True

    def __init__(self, prompt: SoftPrompt, layers: Mapping[str, PromptRows], *, learned: bool) -> None:
        super().__init__(prompt)
        self.layers = tuple(layers.items())
        """The attention modules by their names within the stack."""
        self.learned = learned
        """Whether positions are learned vectors, so that the text has to be counted on from P."""
        self.kept = Kept()

    def call(self, call: Call) -> None:
        runs, known = [], self._known(call)
        for taken, routing in call.groups:
            if routing not in known:
                known[routing] = self._run(call, routing)
            runs.append((taken, known[routing]))
        for index, (_, layer) in enumerate(self.layers):
            layer.front = [Rows(*run[index], taken) for taken, run in runs]
        call.closing.callback(self._forget)
        if torch.is_grad_enabled() and call.module.training:
            call.closing.enter_context(handed_to_checkpoints(call.module, dict(self.layers)))
        if self.learned:
            shift_positions(call, self.prompt.tokens)

    def _known(self, call: Call) -> dict[Routing, Run]:
        """The runs that still hold, by their routing; training keeps none."""
        if torch.is_grad_enabled() or call.module.training:
            self.kept.forget()
            return {}
        return self.kept.runs(call, self.prompt())

    def _forget(self) -> None:
        for _, layer in self.layers:
            layer.front = []

    def _run(self, call: Call, routing: Routing) -> Run:
        stack = call.module
        vectors = self.prompt().to(embedding(stack).weight.dtype)[None]
        first = first_position(stack) if self.learned else -self.prompt.tokens
        positions = torch.arange(first, first + self.prompt.tokens, device=vectors.device)[None]
        modules = [stack.get_submodule(name) for name, _ in self.layers]
        with call.bank.under(routing), without_checkpoints(stack), record(modules) as noted:
            stack(inputs_embeds=vectors, position_ids=positions, use_cache=False)
        return [(keys[0], values[0]) for keys, values in (noted[module] for module in modules)]


class Kept:
    """The runs over P that were made without gradients. A copy of the model begins without them."""

    def __init__(self) -> None:
        self.forget()
        self.begun: WeakKeyDictionary[Any, dict[Routing, Run]] = WeakKeyDictionary()
        """The runs that a cache has begun with: its text has seen these, so it goes on to."""

    def forget(self) -> None:
        """Keep none for calls to come."""
        self.stamp: Stamp | None = None
        self.vectors: Tensor | None = None
        self.latest: dict[Routing, Run] = {}

    def runs(self, call: Call, vectors: Tensor) -> dict[Routing, Run]:
        """The runs for a call with P as ``vectors``, to be used and added to."""
        cache = call.inputs.get("past_key_values")
        if call.past and cache in self.begun:
            return self.begun[cache]
        stamp = call.stamp()
        same = self.vectors is not None and torch.equal(self.vectors, vectors)  # P may be changed past its stamp
        if not same or self.stamp != stamp:
            self.stamp, self.vectors, self.latest = stamp, vectors.detach().clone(), {}
        if cache is not None:
            self.begun[cache] = self.latest
        return self.latest

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


class PromptRows(Part):
    """What the run over P left at one attention module; there while the stack's call lasts."""

    acts_on_output = False
    acts_in_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.front: list[Rows] = []

    def rows(self, taken: tuple[int, ...] | None) -> list[Rows]:
        if not self.front:
            raise AttachError("prompt: expected a call of the whole stack, found its attention called alone")
        return self.front
