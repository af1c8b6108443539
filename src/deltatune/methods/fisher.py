"""Fisher information of a network's parameters, estimated from data without keeping a gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import bank_of
from deltatune.attachment.part import master_dtype
from deltatune.errors import DataError

__all__ = ["fisher", "untrained"]


def fisher(model: nn.Module, parameters: Sequence[nn.Parameter], batches: Iterable[Mapping[str, Any]]) -> list[Tensor]:
    """The mean over batches of the squared gradient of the loss, for each parameter; float32 at least.

    Dropout is off. Needs memory for the sums, and for one parameter's gradient at a time. In a distributed run the mean
    goes over the batches of all processes.

    Raises:
        DataError: there is no batch, or one without a loss.
    """
    sums = [torch.zeros_like(p, dtype=master_dtype(p.dtype), requires_grad=False) for p in parameters]
    count = 0
    with _squared_into(sums, parameters), _without_dropout(model), torch.enable_grad():
        for batch in batches:
            loss = getattr(model(**batch), "loss", None)
            if loss is None:
                raise DataError("child: expected batches with labels, found one that gives no loss; add labels")
            loss.backward()
            count += 1
    totals = _summed_over_processes([*sums, torch.tensor(float(count), device=sums[0].device)])
    if not int(totals[-1]):
        raise DataError("child: expected training data for the Fisher information, found no batch; pass some")
    return [total.div_(totals[-1].to(total.device)) for total in totals[:-1]]


@contextlib.contextmanager
def _squared_into(sums: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Add the square of every gradient to its sum as soon as it is whole, and free it."""

    def adder(total: Tensor) -> Callable[[Tensor], None]:
        def add(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None:
                gradient = gradient.to(total.dtype)
                total.addcmul_(gradient, gradient)

        return add

    former = [parameter.requires_grad for parameter in parameters]
    handles = []
    try:
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(adder(total)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required in zip(parameters, former, strict=True):
            parameter.requires_grad_(required)


def _summed_over_processes(tensors: list[Tensor]) -> list[Tensor]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
    return tensors


@contextlib.contextmanager
def untrained(model: nn.Module) -> Iterator[None]:
    """Deltas act but take no gradients."""
    trained = [parameter for parameter in bank_of(model).parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, but for layers that are checkpointed, which they are in training mode only."""
    former = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in former:
            module.training = bool(getattr(module, "gradient_checkpointing", False))
        yield
    finally:
        for module, training in former:
            module.training = training
