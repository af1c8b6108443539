"""What can be done with a delta, found by trying."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

from deltatune.attachment.bank import bare
from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import is_quantized
from deltatune.attachment.merge import _evaluating, _probe
from deltatune.attachment.part import Part
from deltatune.errors import AttachError, DeltaError

__all__ = ["capabilities"]


def capabilities(delta: Delta) -> dict[str, str | None]:
    """Try what can be done with a delta, without leaving a trace.

    One site of each kind is tried, so the cost does not grow with the model. What every delta can do is left out:
    attach, detach, switch off, stack.

    Args:
        delta: attached to a model; not merged.

    Returns:
        ``None`` for what works, else the reason why not, for each of

        - ``train``: it has something to train;
        - ``save``: a file holds all that it needs, and gives it back;
        - ``peft``: Hugging Face PEFT reads that file;
        - ``route``: rows of a batch can take it or leave it, and none depends on the others;
        - ``merge``: it has a form as weights.

    Raises:
        AttachError: the delta was detached.
    """
    tests = {"train": _trains, "save": _saves, "peft": _is_read_by_peft, "route": _routes, "merge": _merges}
    with bare(delta.model):
        return {name: _reason(test, delta) for name, test in tests.items()}


def _reason(test: Callable[[Delta], str | None], delta: Delta) -> str | None:
    try:
        return test(delta)
    except DeltaError as error:
        return str(error)


def _trains(delta: Delta) -> str | None:
    return None if any(name not in delta.fixed for name, _ in delta.named_parameters()) else "nothing in it is trained"


def _saves(delta: Delta) -> str | None:
    for site, part in delta.items():
        module, twin = (
            delta.model.get_submodule(site),
            copy.deepcopy(part),
        )  # what makes a part may fold away on reading
        expected = {name: tensor.clone() for name, tensor in part.export(module).items()}
        twin.restore(module, expected)
        found = twin.export(module)
        for name, tensor in expected.items():
            if not torch.allclose(found[name], tensor, rtol=1e-5, atol=1e-6):
                return f"{site}: {name} is not what was written when it is read back"
    return None


def _is_read_by_peft(delta: Delta) -> str | None:
    delta.method.peft_config(delta.model, delta)
    return None


@torch.no_grad()
def _routes(delta: Delta) -> str | None:
    if delta.is_in_place:
        return "it changes the base's own weights, which every row shares"
    for site, module, part in _kinds(delta):
        x = _probe(module) if part.acts_on_output and not is_quantized(module) else None
        if x is not None:
            with _evaluating(module, part):
                out = module.forward(x)
                try:
                    whole, alone = part(x, out.clone()), part(x[:1].clone(), out[:1].clone())
                except AttachError:  # it needs what another site has seen, so it can not be tried by itself
                    continue
            if not torch.allclose(whole[:1], alone, rtol=1e-3, atol=1e-3 * float(whole.abs().max())):
                return f"{site}: what it does to a row depends on the other rows"
    return None


@torch.no_grad()
def _merges(delta: Delta) -> str | None:
    for site, module, part in _kinds(delta):
        if is_quantized(module):
            return f"{site}: its weight is packed; pass dequantize=True to merge"
        part.fold(
            module, {n: p.to(torch.promote_types(p.dtype, torch.float32)) for n, p in module.named_parameters()}, 1.0
        )
    return None


def _kinds(delta: Delta) -> Iterator[tuple[str, nn.Module, Part]]:
    """One site of each kind: the same classes, and parameters of the same names."""
    seen = set()
    for site, part in delta.items():
        module = delta.model.get_submodule(site)
        kind = (type(module), *map(type, part.modules()), *(name for name, _ in module.named_parameters()))
        if kind not in seen:
            seen.add(kind)
            yield site, module, part
