"""The deltas of one model: where they live, and the one hook that a site needs for all of them.

The bank is a child module of the base, so that ``model.to``, ``copy.deepcopy``, ``model.train``, an optimiser over
``model.parameters()`` and a distributed wrapper all see the deltas' tensors. It keeps itself out of
``model.state_dict()``: a base saved with deltas attached is the base alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from deltatune.attachment.attention import HOOK, is_listening, listen, unlisten
from deltatune.attachment.calls import Call, named_inputs
from deltatune.attachment.delta import Delta, Home
from deltatune.attachment.in_place import InPlace
from deltatune.attachment.part import Part, Rows
from deltatune.attachment.routing import EVERYTHING, NOTHING, Routing, apply_to_rows, before_rows
from deltatune.attachment.sites import BANK
from deltatune.errors import AttachError

if TYPE_CHECKING:
    from deltatune.attachment.merge import Merge

__all__ = ["Bank", "bank_of", "bare", "find_bank"]


class Bank(nn.Module):
    """Every delta of a model, in the order in which they were attached, which is the order in which they act."""

    def __init__(self, trainable: frozenset[str]) -> None:
        super().__init__()
        self.deltas = nn.ModuleDict()
        self.hooks: dict[str, SiteHook] = {}
        self.routing: Routing = EVERYTHING
        self.listens = False
        """Whether the base's attention is ours, since deltas act in it."""
        self.in_place = InPlace()
        """The deltas whose values are in the base's own parameters at present."""
        self.trainable = trainable
        """The base parameters that required gradients before the first delta froze them."""
        self.merged: Merge | None = None
        """What an unmerge needs; see :mod:`deltatune.attachment.merge`."""
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Delta:
        if name not in self.deltas:
            known = ", ".join(map(repr, self.deltas)) or "none"
            raise AttachError(f"delta {name!r}: expected one that is attached, found {known}; attach or load it first")
        return self.deltas[name]  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Delta]:
        return iter(self.deltas.values())  # type: ignore[arg-type]

    def add(self, model: nn.Module, delta: Delta) -> None:
        """Hook the delta's sites. Costs what the delta has sites, however many deltas are there."""
        if not self.listens and delta.acts_in_attention:
            listen(model)
            self.listens = True
        self.deltas[delta.name] = delta
        delta.home = Home(model)
        for site, part in delta.items():
            if site not in self.hooks:
                self.hooks[site] = SiteHook(self, model.get_submodule(site))
            self.hooks[site].add(delta.name, part, model.get_submodule(site))
        try:
            self.refresh()
        except AttachError:
            self.remove(delta.name)
            raise

    def remove(self, name: str) -> None:
        """Unhook the sites of a delta and forget it."""
        model = self[name].model
        self[name].enabled = False
        self.refresh()
        self[name].home = Home(None)
        for site, _ in self[name].items():
            hook = self.hooks[site]
            hook.remove(name, model.get_submodule(site))
            if not hook.parts:
                hook.close()
                del self.hooks[site]
        del self.deltas[name]
        if self.listens and not any(delta.acts_in_attention for delta in self):
            unlisten(model)
            self.listens = False

    @contextlib.contextmanager
    def under(self, routing: Routing) -> Iterator[None]:
        """Run with ``routing`` and put the former one back, whatever happens."""
        if routing == self.routing:  # so for every layer that is recomputed in backward
            yield
            return
        former, self.routing = self.routing, routing
        try:
            self.refresh()
            yield
        finally:
            self.routing = former
            self.refresh()

    def refresh(self) -> None:
        """Bring the base's parameters in line with the deltas that work by changing them, and with what they train."""
        acting = [delta for delta in self if delta.is_in_place and delta.acts]
        if acting and self.routing.rows is not None:
            raise AttachError(
                f"routed: {acting[0].name!r} changes the base's own weights, which every row shares; disable it first"
            )
        self.in_place.hold([] if self.routing.nothing else acting)

    def checkpoint_contexts(
        self,
    ) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        """The ``context_fn`` of ``torch.utils.checkpoint``: recompute under the routing of the forward pass."""
        return contextlib.nullcontext(), self.under(self.routing)

    def forward(self, x: Any) -> Any:
        """``x`` itself: a model that is an ``nn.Sequential`` calls its children one after the other, the bank too."""
        return x

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Nothing: what is attached is no part of the base's state. ``dt.save`` writes it."""
        if destination is None:
            return {}
        if not keep_vars:
            self.in_place.write_base(destination, prefix.removesuffix(BANK + "."))
        return destination


def _after_load(module: nn.Module, incompatible: Any) -> None:
    """A state dict of the base alone is whole: the deltas' tensors are not missing from it, however deep it lies."""
    incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if f".{BANK}.deltas." not in f".{k}"]
    module.in_place.after_load()  # type: ignore[operator, union-attr]


class SiteHook:
    """The one forward hook of a site: it runs the parts of every delta there, in order, on the rows they act on."""

    def __init__(self, bank: Bank, module: nn.Module) -> None:
        self.bank = bank
        self.parts: dict[str, Part] = {}
        self.handles: list[RemovableHandle] = []
        self.calls: list[Call] = []
        """The calls of this stack that are under way; a part may run the stack itself."""
        self.move_to(module)

    def move_to(self, module: nn.Module) -> None:
        """Serve ``module``, which may have taken another's place."""
        self.close()
        self.handles = [module.register_forward_hook(self, with_kwargs=True)]
        if any(part.changes_input for part in self.parts.values()):
            self.handles.append(module.register_forward_pre_hook(self.before, with_kwargs=True))
        if any(part.acts_in_attention for part in self.parts.values()):
            vars(module)[HOOK] = self.front
            self.handles.append(module.register_forward_pre_hook(self.attend))
        if any(part.changes_call for part in self.parts.values()):
            self.handles.append(module.register_forward_pre_hook(self.enter, with_kwargs=True))
            self.handles.append(module.register_forward_hook(self.leave, with_kwargs=True, always_call=True))

    def close(self) -> None:
        """Take the hooks off the module, and end calls that were broken off from outside."""
        while self.handles:
            self.handles.pop().remove()
        while self.calls:
            self.calls.pop().closing.close()

    def add(self, name: str, part: Part, module: nn.Module) -> None:
        """Let ``part`` act after the others on ``module``, the site."""
        self.parts[name] = part
        if part.changes_input or part.changes_call or part.acts_in_attention:
            self.move_to(module)

    def remove(self, name: str, module: nn.Module) -> None:
        """Forget the part of a delta."""
        part = self.parts.pop(name)
        if part.acts_in_attention and not any(part.acts_in_attention for part in self.parts.values()):
            vars(module).pop(HOOK, None)
        if part.changes_input or part.changes_call or part.acts_in_attention:
            self.move_to(module)

    def attend(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The base may have been given another attention implementation since: put ours over that one."""
        if not is_listening(module):
            listen(next(iter(self.bank)).model)

    def front(self, key: Tensor, value: Tensor) -> list[Rows]:
        """What the deltas put in front of this attention module's own keys and values."""
        front: list[Rows] = []
        for name, part in self.parts.items():
            if part.acts_in_attention:
                taken = self.bank.routing.indices(name, key.shape[0])
                if self.bank[name].acts and taken != ():
                    front += part.rows(taken)
        return front

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the deltas change a call of this stack."""
        call = Call(module, named_inputs(module, args, kwargs), self.bank, self.bank.routing)
        self.calls.append(call)
        for name, part in self.parts.items():
            if part.changes_call and self.bank[name].acts and call.routing.indices(name, call.batch) != ():
                call.parts[name] = part
        for name, part in call.parts.items():
            call.name = name
            part.call(call)
        return (), call.inputs

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Let the deltas change what the stack answers. Runs after a failed call too, with no output."""
        call = self.calls.pop()
        with call.closing:
            for name in reversed(list(call.notes)) if output is not None else ():
                call.name = name
                output = call.parts[name].answer(call, output)
        return output

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The site's input after every delta that changes it."""
        name = None if args else next(iter(kwargs))
        x = args[0] if name is None else kwargs[name]
        for delta, part in self.parts.items():
            if part.changes_input and self.bank[delta].acts:
                x = before_rows(part, x, self.bank.routing.indices(delta, x.shape[0]))
        return ((x, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: x})

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not any(part.acts_on_output for part in self.parts.values()):
            return output
        x, *more = (*args, *kwargs.values())
        if any(part.answers_alone for part in self.parts.values()) and any(isinstance(each, Tensor) for each in more):
            raise AttachError(
                f"{type(module).__name__}: expected one input at a module that is trained whole, found several; train "
                "modules inside it instead"
            )
        first = output[0] if isinstance(output, tuple) else output
        out = self.act(x, first)
        return (out, *output[1:]) if isinstance(output, tuple) else out

    def act(self, x: Tensor, out: Tensor) -> Tensor:
        """``out`` after every delta of this site that is on."""
        routing, deltas, answer = self.bank.routing, self.bank.deltas, out
        for name, part in self.parts.items():
            if part.acts_on_output and deltas[name].acts:
                rows = routing.indices(name, out.shape[0])
                out = apply_to_rows(part, x.to(out.device), out, rows, answer)
        return out


def find_bank(model: nn.Module) -> Bank | None:
    """The bank of ``model``, or ``None`` if nothing is attached. Sees through distributed and compiled wrappers."""
    bank = getattr(unwrap(model), BANK, None)
    return bank if isinstance(bank, Bank) else None


def bank_of(model: nn.Module) -> Bank:
    """The bank of ``model``.

    Raises:
        AttachError: nothing is attached.
    """
    bank = find_bank(model)
    if bank is None:
        raise AttachError(
            f"{type(unwrap(model)).__name__}: expected an attached delta, found none; call dt.attach first"
        )
    return bank


@contextlib.contextmanager
def bare(model: nn.Module) -> Iterator[None]:
    """Within this context the base's parameters are its own: no delta has its values in them, unless it is merged."""
    bank = find_bank(model)
    with contextlib.nullcontext() if bank is None else bank.under(NOTHING):
        yield


def unwrap(model: nn.Module) -> nn.Module:
    """The base below ``DistributedDataParallel``, ``DataParallel`` and ``torch.compile``."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            model.module if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)) else None
        )
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def make_bank(model: nn.Module) -> Bank:
    """The bank of ``model``; the first call freezes the base and remembers what was trainable."""
    bank = find_bank(model)
    if bank is not None:
        return bank
    if hasattr(model, BANK):
        raise AttachError(f"{type(model).__name__} has an attribute {BANK!r} of its own; rename it before attaching")
    trainable = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    model.requires_grad_(False)
    bank = Bank(trainable)
    model.add_module(BANK, bank)
    return bank


def drop_bank(model: nn.Module) -> None:
    """Take the empty bank off the model and thaw what was trainable before."""
    bank = bank_of(model)
    delattr(model, BANK)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in bank.trainable)
