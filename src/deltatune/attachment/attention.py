"""What a delta adds to attention: rows of keys and values in front of a layer's own.

``transformers`` lets a model's attention function be chosen by name. While a delta acts in attention, the model uses a
function registered here, which puts the rows in front, widens the mask and calls the function that was chosen before.
So caches, grouped heads, padding, beams and checkpointing work as they do without it, and the rows never enter a cache.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from deltatune.attachment.layers import features
from deltatune.attachment.part import HOOK, Rows
from deltatune.attachment.sites import Site, base_modules, find_sites
from deltatune.errors import AttachError, SiteError
from deltatune.packing.attend import attend, attend_behind, refuse_sliding
from deltatune.packing.kernels import attend_by_lengths, attend_by_rule
from deltatune.packing.layout import Layout
from deltatune.packing.opaque import attend_opaquely

__all__ = [
    "HOOK",
    "PACKED",
    "Front",
    "Heads",
    "attention_sites",
    "heads_of",
    "is_listening",
    "listen",
    "packed_attention",
    "unlisten",
    "width_in",
]

NAME = "deltatune_"
"""Before the name of the base's own implementation in the name of ours."""

FLASH, VEILED = "flash", "fla.sh"
"""What a name may not have in it, since transformers looks for a kernel of that name then, and what ours has there."""


PACKED = "packed_layout"
"""The argument in which a model hands its attention the layout of a packed batch, or the number of its ticket."""

KERNELS = {"flash": attend_by_lengths, "flex": attend_by_rule}
"""What runs a packed batch in one call, by what the name of an implementation has in it."""

Front = Callable[[Tensor, Tensor], list[Rows]]
"""Answers, given the module's own keys and values, what stands in front of them."""


class Heads(NamedTuple):
    """The shape of an attention module's keys and values."""

    number: int
    width: int

    def split(self, rows: Tensor) -> Tensor:
        """``[p, number * width]`` as ``[number, p, width]``."""
        return rows.view(-1, self.number, self.width).transpose(0, 1)

    def join(self, rows: Tensor) -> Tensor:
        """``[number, p, width]`` as ``[p, number * width]``."""
        return rows.transpose(0, 1).reshape(-1, self.number * self.width)


def attention_sites(model: nn.Module, layers: Any = None, exclude: Any = ()) -> list[Site]:
    """The attention modules of a model, in the order of the tree: whatever holds a key projection.

    Raises:
        SiteError: the model has none, or they do not take part in the interface.
    """
    keys = find_sites(model, ("query", "key", "value"), layers=layers, exclude=exclude)
    names = dict.fromkeys(site.name.rpartition(".")[0] for site in keys)
    sites = [Site(name, module) for name, module in base_modules(model) if name in names]
    for site in sites:
        if not _takes_part(site.module):
            raise SiteError(
                f"{type(site.module).__name__}: expected attention of transformers' interface, found one of its own; "
                "choose a method that does not act in attention"
            )
    return sites


def _takes_part(attention: nn.Module) -> bool:
    """Whether an attention module looks its function up by name; it says so nowhere but in its code."""
    methods = (inspect.unwrap(f) for kind in type(attention).__mro__ for f in vars(kind).values() if callable(f))
    return any("ALL_ATTENTION_FUNCTIONS" in f.__code__.co_names for f in methods if hasattr(f, "__code__"))


def heads_of(attention: nn.Module) -> Heads:
    """How many key heads an attention module has, and how wide they are.

    Raises:
        SiteError: it does not say.
    """
    width = next((int(w) for a in _HEAD_WIDTH if (w := getattr(attention, a, None))), None)
    try:
        features_out = features(find_sites(attention, ("key",))[0].module)[1]
        number = features_out // width if width else None
    except SiteError:  # queries, keys and values in one matrix
        config: Any = getattr(attention, "config", None)
        number = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None)
    if not width or not number:
        raise SiteError(f"{type(attention).__name__}: expected the number and width of its heads, found none")
    return Heads(int(number), width)


_HEAD_WIDTH = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")


def width_in(attention: nn.Module) -> int:
    """The width of the hidden states that an attention module reads."""
    return features(find_sites(attention, ("query", "key", "value"))[0].module)[0]


def is_listening(attention: nn.Module) -> bool:
    """Whether an attention module will use our function."""
    config: Any = getattr(attention, "config", None)
    return str(getattr(config, "_attn_implementation", NAME)).startswith(NAME)


def listen(model: nn.Module) -> None:
    """Switch a model's attention to ours, over what it has; what is ours already stays so.

    Raises:
        AttachError: the model does not choose its attention by name.
    """
    choosers = _choosers(model)
    if not choosers:
        raise AttachError(f"{type(model).__name__}: expected attention of transformers' interface, found none")
    wanted = {module: _registered(_own(module)) for module in choosers}
    try:
        for module, name in wanted.items():
            _choose(module, name)
    except BaseException:
        unlisten(model)
        raise


def unlisten(model: nn.Module) -> None:
    """Give a model its own attention back."""
    for module, name in {module: _own(module) for module in _choosers(model)}.items():
        _choose(module, name)


def _own(module: Any) -> str:
    """The implementation that the base itself has, ours over it or not."""
    return _base_name(str(module.config._attn_implementation))


def _base_name(name: str) -> str:
    return name.removeprefix(NAME).replace(VEILED, FLASH)


def _choosers(model: nn.Module) -> list[nn.Module]:
    """The modules whose configs name an attention implementation, one for each config."""
    first: dict[int, nn.Module] = {}
    for module in model.modules():
        if hasattr(module, "set_attn_implementation"):
            first.setdefault(id(module.config), module)
    return list(first.values())


def _choose(module: Any, implementation: str) -> None:
    if module.config._attn_implementation == implementation:
        return
    module.set_attn_implementation(implementation)
    if module.config._attn_implementation != implementation:
        raise AttachError(
            f"{type(module).__name__}: expected attention of transformers' interface, found one of its own; "
            "choose a method that does not act in attention"
        )


def _registered(implementation: str) -> str:
    """The name of our function over ``implementation``, registered if it is not."""
    name = NAME + implementation.replace(FLASH, VEILED)
    if implementation != "eager" and implementation not in AttentionInterface():
        raise AttachError(f"attention {implementation!r}: expected one of transformers' interface; use 'sdpa'")
    if name not in AttentionInterface():
        AttentionInterface.register(name, partial(attention, implementation=implementation))
        masks = AttentionMaskInterface()
        AttentionMaskInterface.register(name, masks[implementation])
    return name


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    implementation: str,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function: that of ``implementation`` with the rows of :data:`HOOK` in front.

    Args:
        module: the attention module.
        query: ``[batch, heads, queries, head_dim]``.
        key: ``[batch, kv_heads, keys, head_dim]``, cache included.
        value: like ``key``.
        attention_mask: as the implementation has it; a packed batch has none.
        implementation: the base's own.
        **options: passed on.
    """
    inner = _function(module, implementation)
    ask: Front | None = vars(module).get(HOOK)
    front = [] if ask is None else ask(key, value)
    layout: Layout | Tensor | None = options.pop(PACKED, None)
    if isinstance(layout, Tensor):
        return attend_opaquely(module, query, key, value, layout, front, implementation=implementation, **options), None
    if layout is not None:
        return packed_attention(module, query, key, value, layout, front, implementation, **options), None
    if not front:
        return inner(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    if options.get("cu_seq_lens_k") is not None:
        raise AttachError("attention: expected a mask for packed texts, found their lengths; use 'sdpa' to pack")
    if _is_one_step(query, attention_mask, front, implementation, options):
        return attend_behind(query, front, key, value, attention_mask, options.get("scaling")), None
    p = sum(rows.keys.shape[1] for rows in front)
    window = options.get("sliding_window")
    if window is not None and implementation.startswith("flash"):
        refuse_sliding(window, p + key.shape[2], p)
    mask = _widened(attention_mask, front, module, query, key, implementation, options.get("is_causal"))
    if options.get("position_bias") is not None:  # rows in front stand at no position
        options["position_bias"] = F.pad(options["position_bias"], (p, 0))
    batch = key.shape[0]
    keys = torch.cat([*(rows.keys.to(key.dtype).expand(batch, -1, -1, -1) for rows in front), key], dim=2)
    values = torch.cat([*(rows.values.to(value.dtype).expand(batch, -1, -1, -1) for rows in front), value], dim=2)
    out, weights = inner(module, query, keys, values, mask, **options)
    return out, None if weights is None else weights[..., p:]


_PLAIN = frozenset(
    {"dropout", "scaling", "is_causal", "sliding_window", "position_ids", "use_cache", "output_attentions"}
)
"""The arguments beside which attention is softmax(s q kᵀ) v."""


def _is_one_step(
    query: Tensor, mask: Tensor | None, front: Sequence[Rows], implementation: str, options: dict[str, Any]
) -> bool:
    """Whether each row of a batch asks for one token more, behind rows that it shares with all others."""
    shared = all(rows.taken is None for rows in front)
    plain = all(name in _PLAIN or value is None for name, value in options.items())
    plain = plain and not options.get("dropout") and not options.get("output_attentions")
    one_mask = mask is None or (isinstance(mask, Tensor) and mask.shape[1] == 1)
    one_query = query.shape[0] > 1 and query.shape[2] == 1
    return shared and plain and one_mask and one_query and implementation in ("sdpa", "eager")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    front: Sequence[Rows],
    implementation: str,
    **options: Any,
) -> Tensor:
    """What each row of a packed batch attends to; see :func:`deltatune.packing.attend.attend`."""
    inner, is_eager = _function(module, implementation), implementation == "eager"
    kernel = next((kernel for kind, kernel in KERNELS.items() if kind in implementation), None)
    if kernel is not None:
        return kernel(inner, module, query, key, value, layout, front, **options)
    return attend(inner, module, query, key, value, layout, front, is_eager=is_eager, **options)


def _function(module: nn.Module, implementation: str) -> Callable[..., Any]:
    if FLASH in implementation:
        return partial(_in_own_name, AttentionInterface()[implementation], implementation)
    if implementation != "eager":
        return AttentionInterface()[implementation]  # type: ignore[no-any-return]
    # Each model file has its own, which the interface does not know.
    files = (sys.modules[kind.__module__] for kind in type(module).__mro__)
    return next(file.eager_attention_forward for file in files if hasattr(file, "eager_attention_forward"))  # type: ignore[no-any-return]


class _View:
    """An object with some of its attributes changed, for those who only read it."""

    def __init__(self, of: Any, **changed: Any) -> None:
        vars(self).update(changed, _of=of)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)


def _in_own_name(function: Callable[..., Any], implementation: str, module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call flash attention, which finds its kernel by the module's config, as if that said ``implementation``."""
    config = _View(module.config, _attn_implementation=implementation)
    return function(_View(module, config=config), *args, **kwargs)


def _widened(
    mask: Tensor | None,
    front: list[Rows],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    implementation: str,
    is_causal: bool | None,
) -> Tensor | None:
    """The mask with the rows in front of it, visible to the batch rows that take them."""
    seen = None if all(rows.taken is None for rows in front) else _seen(front, query)
    if "flash" in implementation:
        return _widened_padding(mask, seen, front, key)
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        causal = queries > 1 and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
        if not causal and seen is None:
            return None
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=query.device)
        mask = mask.tril() if causal else mask
        mask = mask if implementation != "eager" else _additive(mask, query.dtype)
    if not isinstance(mask, Tensor):
        raise AttachError(
            f"attention {implementation!r}: expected a dense mask, found {type(mask).__name__}; use 'sdpa'"
        )
    if seen is None:
        seen = torch.ones(1, sum(rows.keys.shape[1] for rows in front), dtype=torch.bool, device=query.device)
    seen = seen[:, None, None, :]
    seen = seen if mask.dtype == torch.bool else _additive(seen, mask.dtype)
    batch = max(mask.shape[0], seen.shape[0])
    shape = (batch, mask.shape[1], mask.shape[2], -1)
    return torch.cat([seen.expand(shape), mask.expand(shape)], dim=-1)


def _seen(front: list[Rows], query: Tensor) -> Tensor:
    """Which batch row sees which of the rows in front: ``[batch, p]``."""
    columns = []
    for rows in front:
        column = torch.full((query.shape[0],), rows.taken is None, device=query.device)
        if rows.taken is not None:
            column[list(rows.taken)] = True
        columns.append(column[:, None].expand(-1, rows.keys.shape[1]))
    return torch.cat(columns, dim=1)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _widened_padding(mask: Tensor | None, seen: Tensor | None, front: list[Rows], key: Tensor) -> Tensor | None:
    """Flash attention takes ``[batch, keys]`` and aligns causality at the end, so rows in front need nothing more."""
    if mask is None and seen is None:
        return None
    batch, keys = key.shape[0], key.shape[2]
    if mask is None:
        mask = torch.ones(batch, keys, dtype=torch.bool, device=key.device)
    if seen is None:
        seen = torch.ones(batch, sum(rows.keys.shape[1] for rows in front), dtype=torch.bool, device=key.device)
    return torch.cat([seen.to(mask.dtype), mask], dim=1)
