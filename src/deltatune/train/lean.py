"""Training that keeps less: what follows from kept activations in a few elementwise steps is made again in backward.

Two kinds of tensors of a frozen base are worth it. Of a gated MLP, ``down(act(gate(x)) * up(x))``, only what ``gate``
and ``up`` answer is kept, and of a norm only its input, whatever reads the norm's output. No product with a weight
matrix is run again, losses are the same bits, and gradients the same up to the order of a sum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import bare, unwrap
from deltatune.attachment.recompute import ByAutograd, Step, recomputed
from deltatune.attachment.sites import base_modules
from deltatune.attachment.stacks import evaluating
from deltatune.methods.norm import NormPart
from deltatune.train.steps import RMSNorm, SwiGLU

__all__ = ["lean"]


@contextlib.contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Within this context a backward pass through ``model`` keeps less; it does nothing where there are no gradients.

    A module is touched only if what stands in for it answers the same bits to a random input, and not if its
    ``forward`` has been replaced, as by offloading. A norm whose own weights are trained keeps what it keeps. Hooks run
    as ever, and afterwards the modules are as before.

    Not for ``nn.DataParallel``, whose replicas share what is set on a module.

    Args:
        model: any module tree, with or without deltas.
    """
    model = unwrap(model)
    with contextlib.ExitStack() as stack:
        for module, forward in _leaner(model).items():
            module.forward = MethodType(partial(_unless_compiling, forward), module)
            stack.callback(_restore, module, module.forward)
        yield


def _restore(module: nn.Module, forward: Callable[..., Any]) -> None:
    if vars(module).get("forward") is forward:  # else a wrapper has been put over it, which needs it
        del module.forward


def _leaner(model: nn.Module) -> dict[nn.Module, Callable[..., Tensor]]:
    """The modules that can keep less, with the function that does so."""
    found: dict[nn.Module, Callable[..., Tensor]] = {}
    with torch.no_grad(), evaluating(model), bare(model):
        for _, module in base_modules(model):
            if "forward" not in vars(module):
                forward = next((f for f in _candidates(module) if _is_alike(module, f)), None)
                if forward is not None:
                    found[module] = forward
    return found


def _candidates(module: nn.Module) -> Iterator[Callable[..., Tensor]]:
    """The functions that could stand in for a module's forward, the fastest first."""
    if NormPart.fits(module):
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        # In float64 too these norms compute in float32, where another order of a sum would show.
        if isinstance(eps, float) and next(module.parameters()).dtype != torch.float64:
            yield partial(_rms_norm, eps)
        yield _norm
    names = next((names for names in GATED if names.are_all_of(module)), None)
    if names is not None:
        yield partial(_gated, names, SwiGLU())
        yield partial(_gated, names, ByAutograd(partial(_product, module.get_submodule(names.act))))


def _unless_compiling(forward: Callable[..., Tensor], module: nn.Module, x: Tensor) -> Tensor:
    """The compiler fuses and recomputes as it sees fit."""
    return _own(module, x) if torch.compiler.is_compiling() else forward(module, x)


def _rms_norm(eps: float, module: nn.Module, x: Tensor) -> Tensor:
    weight: Any = module.weight  # may be a stand-in, which is trained
    return _own(module, x) if weight.requires_grad else recomputed(RMSNorm(weight, eps), x)


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    is_trained = any(parameter.requires_grad for parameter in module.parameters())
    return _own(module, x) if is_trained else recomputed(ByAutograd(partial(_own, module)), x)


def _own(module: nn.Module, x: Tensor) -> Tensor:
    answer: Tensor = type(module).forward(module, x)
    return answer


class _Names(NamedTuple):
    """What the modules of a gated MLP are called."""

    gate: str
    up: str
    down: str
    act: str
    dropout: str | None = None

    def are_all_of(self, module: nn.Module) -> bool:
        return {name for name, _ in module.named_children()} == {name for name in self if name is not None}


GATED = (
    _Names("gate_proj", "up_proj", "down_proj", "act_fn"),  # LLaMA, Qwen, Mistral, Gemma
    _Names("wi_0", "wi_1", "wo", "act", "dropout"),  # T5
)


def _gated(names: _Names, step: Step, module: nn.Module, x: Tensor) -> Tensor:
    gate, up, down = (module.get_submodule(name) for name in names[:3])
    inner = recomputed(step, gate(x), up(x))
    if names.dropout is not None:
        inner = module.get_submodule(names.dropout)(inner)
    return down(inner)  # type: ignore[no-any-return]


def _product(act: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
    answer: Tensor = act(gate) * up
    return answer


def _is_alike(module: nn.Module, forward: Callable[..., Tensor]) -> bool:
    """Whether ``forward`` answers as the module itself does, bit for bit; on the meta device, in the same shape."""
    first = next(module.parameters(), None)
    if first is None:
        return False
    width = next((m.in_features for m in module.children() if isinstance(m, nn.Linear)), first.shape[-1])
    x = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0))
    x = x.to(first.device, first.dtype if first.is_floating_point() else torch.get_default_dtype())
    try:
        own, other = module(x), forward(module, x)
        return own.shape == other.shape if x.is_meta else torch.equal(own, other)
    except (RuntimeError, TypeError, AttributeError):
        return False
