"""Attach, detach, switch and route: the verbs that change which deltas a model has and uses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deltatune.attachment.bank import Bank, bank_of, bare, drop_bank, find_bank, make_bank, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.routing import NOTHING, Routing
from deltatune.errors import AttachError
from deltatune.methods import as_method

if TYPE_CHECKING:
    from deltatune.methods.base import Method

__all__ = ["attach", "checkpoint_contexts", "deltas", "detach", "disable", "disabled", "enable", "routed"]


def attach(model: nn.Module, method: Method | Any, *, name: str = "default") -> Delta:
    """Attach what ``method`` describes to ``model`` and freeze everything else.

    The model keeps its class, its modules and its state dict; forward hooks on its sites do the work. A fresh delta
    leaves the logits as they are, unless its method says otherwise. Any number of deltas may be attached; at a
    site they act in the order in which they came.

    Args:
        model: the base, or one that has deltas already.
        method: what to attach, such as ``dt.LoRA(r=8)``, or a config of Hugging Face PEFT, such as
            ``peft.OFTConfig()``.
        name: how to call the delta in the other verbs; without ``.`` or ``/``. Default: ``"default"``.

    Returns:
        The delta, trainable and on.

    Raises:
        AttachError: the name is taken or unusable, or deltas are merged at present.
        SiteError: the method's targets name nothing usable.
    """
    model = unwrap(model)
    check_name(model, name)
    method = as_method(method)
    with bare(model):
        parts = method.bind(model)
    return add(model, Delta(name, method, parts))


def add(model: nn.Module, delta: Delta) -> Delta:
    """Give a finished delta its place in the model. Nothing of the model changes before this."""
    delta.train(model.training)
    bank = make_bank(model)
    try:
        bank.add(model, delta)
    except BaseException:
        if not bank.deltas:
            drop_bank(model)
        raise
    return delta


def check_name(model: nn.Module, name: str) -> None:
    """Refuse a name that can not be given to a new delta, and a model whose deltas are merged."""
    bank = find_bank(model)
    if not name or "." in name or "/" in name:
        raise AttachError(
            f"name {name!r}: expected letters without '.' or '/', since it names a folder; choose another"
        )
    if hasattr(nn.ModuleDict(), name):  # torch keeps modules as attributes
        raise AttachError(f"name {name!r}: expected none of torch's own attributes, found one; choose another")
    if bank is not None and name in bank.deltas:
        raise AttachError(f"name {name!r} is taken by {bank[name].method}; choose another name or detach that delta")
    if bank is not None and bank.merged is not None:
        raise AttachError("deltas are merged into the weights; call dt.unmerge(model) before attaching another")


def detach(model: nn.Module, name: str | Delta | None = None) -> None:
    """Take a delta off the model, or all of them. After the last one the base is bit for bit what it was.

    Raises:
        AttachError: no such delta, or deltas are merged at present.
    """
    model = unwrap(model)
    bank = bank_of(model)
    if bank.merged is not None:
        raise AttachError("deltas are merged into the weights; call dt.unmerge(model) before detaching")
    for each in list(bank.deltas) if name is None else [_name(name)]:
        bank.remove(each)
    if not bank.deltas:
        drop_bank(model)


def deltas(model: nn.Module) -> dict[str, Delta]:
    """The deltas of ``model`` by name, in the order in which they act; empty if there are none."""
    bank = find_bank(model)
    return {} if bank is None else {delta.name: delta for delta in bank}


def enable(model: nn.Module, *names: str) -> None:
    """Turn the named deltas on, or all of them."""
    for name in names or deltas(model):
        bank_of(model)[name].enable()


def disable(model: nn.Module, *names: str) -> None:
    """Turn the named deltas off, or all of them; they stay attached.

    Raises:
        AttachError: no such delta, or one of them is merged; nothing is turned off then.
    """
    chosen = [bank_of(model)[name] for name in names or deltas(model)]
    for delta in sorted(chosen, key=lambda delta: not delta.merged):  # those that refuse come first
        delta.disable()


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within this context the model is exactly the base. Unwinds on an exception too.

    Raises:
        AttachError: deltas are merged into the weights, so the base is not there to be shown.
    """
    with _under(model, NOTHING):
        yield


@contextlib.contextmanager
def routed(model: nn.Module, routes: Iterable[str | Iterable[str] | None]) -> Iterator[None]:
    """Within this context each row of a batch takes the deltas its route names: one, several or (``None``) none.

    Holds in ``generate`` too: beams and returned sequences follow the row they come from. A disabled delta stays
    off on every row.

    Args:
        model: a model with deltas.
        routes: one entry for each row of the batches to come.

    Raises:
        AttachError: a route names no attached delta, there is no route, or deltas are merged; and, from a forward
            pass, the batch is no multiple of the routes.
    """
    routing = Routing.of(routes)
    if not routing.rows:
        raise AttachError("routed: expected a route for each row of the batch, found none; pass a name or None a row")
    for name in routing.names:
        bank_of(model)[name]
    with _under(model, routing):
        yield


@contextlib.contextmanager
def _under(model: nn.Module, routing: Routing) -> Iterator[None]:
    model = unwrap(model)
    bank = bank_of(model)
    if bank.merged is not None:
        raise AttachError("deltas are merged into the weights, which act on every row; call dt.unmerge(model) first")
    with bank.under(routing), _recomputed_under_routing(model):
        yield


@contextlib.contextmanager
def _recomputed_under_routing(model: nn.Module) -> Iterator[None]:
    """Layers that are recomputed in backward see the routing of their forward pass, though its context is over by then.

    ``transformers`` and ``diffusers`` give a checkpointed layer its checkpointing function in a private attribute; a
    public call that sets it would reset the user's options. What is captured in the forward pass lasts, so the
    attribute is put back on the way out.
    """
    bank, name = bank_of(model), "_gradient_checkpointing_func"
    former = {
        layer: vars(layer)[name]
        for layer in model.modules()
        if torch.is_grad_enabled() and getattr(layer, "gradient_checkpointing", False) and name in vars(layer)
    }
    for layer, function in former.items():
        setattr(layer, name, partial(_checkpoint, function, bank, bank.routing))
    try:
        yield
    finally:
        for layer, function in former.items():
            setattr(layer, name, function)


def _checkpoint(function: Callable[..., Any], bank: Bank, routing: Routing, run: Callable[..., Any], *args: Any) -> Any:
    """Checkpoint ``run`` with ``function``, and run it under ``routing`` whenever that is."""

    def routed_run(*args: Any, **kwargs: Any) -> Any:
        with bank.under(routing):
            return run(*args, **kwargs)

    return function(routed_run, *args)


def checkpoint_contexts(
    model: nn.Module,
) -> Callable[[], tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]]:
    """The ``context_fn`` for your own ``torch.utils.checkpoint.checkpoint`` calls around a model with deltas.

    It makes the recomputation in backward use the routing of the forward pass. Models that checkpoint through
    ``transformers`` need nothing: :func:`routed` and :func:`disabled` see to it.
    """
    return bank_of(model).checkpoint_contexts


def _name(delta: str | Delta) -> str:
    return delta if isinstance(delta, str) else delta.name
