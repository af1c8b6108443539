"""Attention over a packed batch as one operator that a compiler does not look into.

Who attends to whom is another thing in each batch: traced, it would be compiled for each. Here the compiled model gets
a number for it, in a tensor, since a plain number would be compiled in as well. The batch's :class:`Ticket` has that
number for as long as it lives, and what attention keeps for its backward pass.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Rows
from deltatune.packing.layout import Layout

__all__ = ["NUMBER", "Ticket", "attend_opaquely"]

NUMBER = "_deltatune_attention_number"
"""Where an attention module notes which of its model's it is, for the operator finds it by that."""

Attend = Callable[..., Tensor]
"""Attention over a packed batch outside of a graph: :func:`deltatune.attachment.attention.packed_attention`."""

_LIVE: WeakValueDictionary[int, Ticket] = WeakValueDictionary()
_NUMBERS = itertools.count()


class _Kept(NamedTuple):
    """What a call has left for the backward pass."""

    inputs: list[Tensor]
    out: Tensor


class Ticket:
    """What the operator has to know of a batch beside tensors; hold it until the backward pass is over.

    Args:
        layout: who attends to whom.
        modules: the model's attention modules, each where its :data:`NUMBER` says.
        attention: what runs.
    """

    def __init__(self, layout: Layout, modules: Sequence[nn.Module], attention: Attend) -> None:
        self.layout, self.modules, self.attention = layout, modules, attention
        self.kept: dict[int, _Kept] = {}
        self.keys = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        self.number = torch.tensor(next(_NUMBERS))  # on the CPU, where it is read without waiting for the device
        _LIVE[int(self.number)] = self

    @contextlib.contextmanager
    def recording(self, device: str) -> Iterator[None]:
        """Within this context autograd records as it did where the ticket was made.

        A compiled forward pass switches it off below all that is public; a test fails when this moves.
        """
        with torch._C._ForceDispatchKeyGuard(*self.keys), torch.enable_grad(), torch.autocast(device, enabled=False):
            yield

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        front: Sequence[Rows],
        number: int,
        implementation: str,
        **options: Any,
    ) -> Tensor:
        """The attention of the module of that number."""
        return self.attention(self.modules[number], query, key, value, self.layout, front, implementation, **options)


def attend_opaquely(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ticket: Tensor,
    front: Sequence[Rows] = (),
    *,
    implementation: str,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> Tensor:
    """What each row of a packed batch attends to, ``[1, rows, heads, head_dim]``, in a model that is compiled.

    The arguments are those of :func:`deltatune.packing.attend.attend`, but for these.

    Args:
        ticket: the number of the batch's.
        implementation: the base's own.
        scaling: of the scores, as the implementation has it.
        sliding_window: as there.
        softcap: as there.
        dropout: as there.
        **options: as there.
    """
    number: int = getattr(module, NUMBER)
    if dropout or any(_matters(name, option) for name, option in options.items()):
        known = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, "dropout": dropout}
        given = options | {name: option for name, option in known.items() if option is not None}
        return _attend_outside(query, key, value, ticket, front, number, implementation, given)  # type: ignore[no-any-return]
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    keys = torch.cat([rows.keys for rows in front], dim=1).to(key.dtype) if front else None
    values = torch.cat([rows.values for rows in front], dim=1).to(value.dtype) if front else None
    settings = (ticket, number, implementation, scaling, sliding_window, softcap)
    tensors = (query, key, value, keys, values)
    keep = any(each is not None and each.requires_grad for each in tensors)
    return torch.ops.deltatune.attend(*tensors, *settings, keep)  # type: ignore[no-any-return]


_HARMLESS = ("position_ids", "cache_position", "use_cache")
"""What models hand to every attention function, and none reads of those that packed batches run on."""


def _matters(name: str, option: Any) -> bool:
    return name not in _HARMLESS and option is not None and option is not False


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_outside(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ticket: Tensor,
    front: Sequence[Rows],
    number: int,
    implementation: str,
    options: dict[str, Any],
) -> Tensor:
    """The graph breaks here: what is random, or a tensor of the model's own, has no place in the operator."""
    return _LIVE[int(ticket)].attend(query, key, value, front, number, implementation, **options)


_TAGS = (torch.Tag.cudagraph_unsafe, torch.Tag.pt2_compliant_tag)

torch.library.define(
    "deltatune::attend",
    "(Tensor query, Tensor key, Tensor value, Tensor? front_keys, Tensor? front_values, Tensor ticket, int number, "
    "str implementation, float? scaling, int? sliding_window, float? softcap, bool keep) -> Tensor",
    tags=_TAGS,
)
torch.library.define(
    "deltatune::attend_backward",
    "(Tensor grad, Tensor ticket, int number, int heads, int width, int front) -> Tensor[]",
    tags=_TAGS,
)


@torch.library.impl("deltatune::attend", "CompositeExplicitAutograd")
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    front_keys: Tensor | None,
    front_values: Tensor | None,
    ticket: Tensor,
    number: int,
    implementation: str,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
    keep: bool,
) -> Tensor:
    """See :meth:`Ticket.attend`; with ``keep`` its inputs are copied, for a compiler uses their memory again."""
    found = _LIVE[int(ticket)]
    inputs = [each.detach() for each in (query, key, value, front_keys, front_values) if each is not None]
    if keep:
        inputs = [each.clone().requires_grad_() for each in inputs]
    q, k, v, *rest = inputs
    front = [Rows(rest[0], rest[1], None)] if rest else []
    given: dict[str, Any] = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
    options = {name: option for name, option in given.items() if option is not None}
    device = query.device.type
    with found.recording(device) if keep else torch.autocast(device, enabled=False):
        out = found.attend(q, k, v, front, number, implementation, **options)
    if keep:
        found.kept[number] = _Kept(inputs, out)
    return out.detach()


@torch.library.impl("deltatune::attend_backward", "CompositeExplicitAutograd")
def _attend_backward(grad: Tensor, ticket: Tensor, number: int, heads: int, width: int, front: int) -> list[Tensor]:
    """The gradients of all tensors that were there, in order."""
    inputs, out = _LIVE[int(ticket)].kept.pop(number)
    return [made.contiguous() for made in torch.autograd.grad(out, inputs, grad)]


@torch.library.register_fake("deltatune::attend")  # type: ignore[untyped-decorator]
def _fake(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Tensor:
    batch, heads, rows, _ = query.shape
    return query.new_empty(batch, rows, heads, value.shape[-1])


@torch.library.register_fake("deltatune::attend_backward")  # type: ignore[untyped-decorator]
def _fake_backward(grad: Tensor, ticket: Tensor, number: int, heads: int, width: int, front: int) -> list[Tensor]:
    batch, rows, queries, depth = grad.shape
    shapes: list[tuple[int, ...]] = [(batch, queries, rows, width), (batch, heads, rows, width)]
    shapes += [(batch, heads, rows, depth), *([(heads, front, width), (heads, front, depth)] if front else [])]
    return [grad.new_empty(shape) for shape in shapes]


def _note(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, key, _, front_keys, _, ticket, number, *_ = inputs
    ctx.save_for_backward(ticket)
    ctx.call = (number, key.shape[1], key.shape[3], 0 if front_keys is None else front_keys.shape[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, *fronts = torch.ops.deltatune.attend_backward(grad, *ctx.saved_tensors, *ctx.call)
    return q, k, v, *(fronts or (None, None)), *(None for _ in range(7))


torch.library.register_autograd("deltatune::attend", _backward, setup_context=_note)
