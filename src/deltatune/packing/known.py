"""What a model can take, found out once for as long as nothing about it changes that could change the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from deltatune.attachment.bank import find_bank

__all__ = ["ask", "is_routed"]

Check = Callable[[nn.Module], str | None]

_KNOWN: WeakKeyDictionary[nn.Module, dict[Check, tuple[object, str | None]]] = WeakKeyDictionary()


def ask(check: Check, model: nn.Module) -> str | None:
    """What ``check`` says of a model as it is now; it is run anew when modules, hooks or deltas have changed.

    Args:
        check: runs the model on a few tokens, so that asking it each time would cost more than short work takes.
        model: the model, with whatever is attached.
    """
    answers, facts = _KNOWN.setdefault(model, {}), _facts(model)
    if check not in answers or answers[check][0] != facts:
        answers[check] = facts, check(model)
    return answers[check][1]


def is_routed(model: nn.Module) -> bool:
    """Whether the rows of a batch take different deltas now."""
    bank = find_bank(model)
    return bank is not None and bank.routing.rows is not None


def _facts(model: nn.Module) -> object:
    first, bank = next(model.parameters()), find_bank(model)
    deltas = () if bank is None else (bank.routing, *((id(delta), delta.acts) for delta in bank))
    config: Any = getattr(model, "config", None)
    modules = tuple((id(module), type(module), *_patches(module)) for module in model.modules())
    return modules, deltas, getattr(config, "_attn_implementation", None), first.dtype, first.device


def _patches(module: nn.Module) -> tuple[bool, int]:
    """Whether a module has a forward of its own, and its hooks."""
    hooks = (value for name, value in vars(module).items() if "hooks" in name and isinstance(value, dict))
    return "forward" in vars(module), sum(map(len, hooks))
