"""Deltas that work by changing the base's own parameters: put in, taken out again, and trained where they are.

Their values lie in the base while they act, so they cost nothing there. To train them, a module computes with stand-ins
for its parameters: tensors of the same memory that autograd knows as functions of the delta's. The base's parameters
need no gradients themselves, and the dense gradient of one is freed as soon as the delta has taken its share of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Part

__all__ = ["InPlace"]


class StandIns:
    """The hooks on one module that let stand-ins take the places of its parameters during a call.

    A parameter's place in a module is private to torch: there is no public way to fill it with a tensor that has a
    gradient function. The tests of training fail when it moves.

    Args:
        module: the module.
        trained: its parameters by name, with the parts that train them, from the lowest on, and their names there.
        renew: puts in values that have been changed by hand, or by a loop that does not call :func:`deltatune.on_step`.
    """

    def __init__(
        self, module: nn.Module, trained: Mapping[str, Sequence[tuple[Part, str]]], renew: Callable[[], None]
    ) -> None:
        self.trained, self.renew = trained, renew
        self.replaced: list[dict[str, Any]] = []
        """For each call under way."""
        self.handles = [
            module.register_forward_pre_hook(self._before),
            module.register_forward_hook(self._after, always_call=True),
        ]

    def remove(self) -> None:
        """Take the hooks off the module."""
        while self.handles:
            self.handles.pop().remove()

    def _before(self, module: nn.Module, args: Any) -> None:
        if any(part.is_stale for parts in self.trained.values() for part, _ in parts):
            self.renew()
        own = {name: module._parameters[name] for name in self.trained}
        self.replaced.append(own)
        if torch.is_grad_enabled():
            for name, parts in self.trained.items():
                tensor: Any = own[name]
                for part, its_name in parts:
                    if any(parameter.requires_grad for parameter in part.parameters()):
                        tensor = part.stand_in(its_name, tensor)
                module._parameters[name] = tensor

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        module._parameters.update(self.replaced.pop())


class InPlace:
    """The deltas whose values are in the base's parameters at present, in their order."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.taken_out: list[Delta] = []
        self.watches: list[RemovableHandle | StandIns] = []

    def hold(self, deltas: list[Delta]) -> None:
        """Let exactly these act. They are taken out in reverse, so that each restores what it found."""
        if [id(delta) for delta in deltas] != [id(delta) for delta in self.deltas]:
            self._take_out()
            self._put_in(deltas)

    def renew(self) -> None:
        """Put in the values that have changed since."""
        if any(part.is_stale for _, part in self._parts()):
            if len(self.deltas) > 1:  # otherwise nothing lies on top
                self._uninstall()
            self._install()

    def write_base(self, state: dict[str, Any], prefix: str) -> None:
        """Put the base's own values into its state dict, in place of what the deltas have put there."""
        deltas, changed = self.deltas, {id(m.get_parameter(n)) for m, part in self._parts() for n in part.changes}
        if not changed:
            return
        model = deltas[0].model
        self._take_out()
        copies: dict[int, Tensor] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if id(parameter) in changed and prefix + name in state:
                if id(parameter) not in copies:
                    copies[id(parameter)] = parameter.detach().clone()
                state[prefix + name] = copies[id(parameter)]
        self._put_in(deltas)

    def after_load(self) -> None:
        """Put in again what had to give way to a state dict of the base."""
        deltas, self.taken_out = self.taken_out, []
        if deltas:
            self._put_in(deltas)

    def _before_load(self, *_: Any) -> None:
        """Let a state dict of the base meet the base."""
        self.taken_out = self.deltas
        self._take_out()

    def _put_in(self, deltas: list[Delta]) -> None:
        self.deltas = deltas
        if not deltas:
            return
        self._install()
        model, users = deltas[0].model, self._users()
        self.watches = [model.register_load_state_dict_pre_hook(self._before_load)]
        for module in model.modules():  # a tied parameter is trained through every module that has it
            own = {name: users[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in users}
            if own:
                self.watches.append(StandIns(module, own, self.renew))

    def _take_out(self) -> None:
        while self.watches:
            self.watches.pop().remove()
        self._uninstall()
        self.deltas = []

    def _install(self) -> None:
        users = self._users()
        for module, part in self._parts():
            part.install(module, alone=all(len(users[id(module.get_parameter(name))]) == 1 for name in part.changes))

    def _uninstall(self) -> None:
        for module, part in reversed(list(self._parts())):
            part.uninstall(module)

    def _users(self) -> dict[int, list[tuple[Part, str]]]:
        """The parts that change each parameter, in their order, and its name there."""
        users: dict[int, list[tuple[Part, str]]] = {}
        for module, part in self._parts():
            for name in part.changes:
                users.setdefault(id(module.get_parameter(name)), []).append((part, name))
        return users

    def _parts(self) -> Iterator[tuple[nn.Module, Part]]:
        for delta in self.deltas:
            model = delta.model
            for site, part in delta.items():
                if part.is_in_place:
                    yield model.get_submodule(site), part
