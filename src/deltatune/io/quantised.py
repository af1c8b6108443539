"""A base in 4 or 8 bits, by its shapes: bitsandbytes' own layers on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from deltatune.attachment.layers import features, is_linear
from deltatune.attachment.sites import head_modules
from deltatune.io.bases import Quant
from deltatune.io.quiet import require

__all__ = ["precise_modules", "quantise", "weight_bytes"]

BLOCK = 64
"""So many weights share a scale (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3)."""
SCALES = 256
"""So many of these scales share another one, if they are quantised too."""


def quantise(model: nn.Module, quant: Quant) -> None:
    """Put packed layers in place of the linear ones, as loading a quantised base does.

    The head stays as it is, and so does what the architecture wants in float32.

    Args:
        model: on the meta device; changed.
        quant: as for ``load_base``.

    Raises:
        DeltaError: bitsandbytes is not installed.
    """
    require("bitsandbytes", f"quant={quant!r}")
    heads, kept = head_modules(model), precise_modules(model)
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if is_linear(module) and module not in heads and child not in kept:
            packed = _in_8_bits(module) if quant == "int8" else _in_4_bits(module, twice=quant == "nf4-double")
            setattr(model.get_submodule(parent), child, packed.requires_grad_(False))
    model.is_quantized = True  # type: ignore[assignment]


def precise_modules(model: nn.Module) -> set[str]:
    """The last names of the modules that an architecture wants in float32 rather than in 16 bits or fewer."""
    return set(getattr(model, "_keep_in_fp32_modules", None) or ())


def _in_4_bits(linear: nn.Module, *, twice: bool) -> nn.Module:
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState

    weight = linear.get_parameter("weight")
    dtype, size = weight.dtype, weight.numel()
    scales = -(-size // BLOCK)
    settings: dict[str, Any] = {"blocksize": BLOCK, "quant_type": "nf4", "code": _empty(16), "dtype": dtype}
    if twice:
        inner = QuantState(absmax=_empty(-(-scales // SCALES)), blocksize=SCALES, code=_empty(256), dtype=torch.float32)
        settings |= {"offset": _empty(), "state2": inner}
    absmax = _empty(scales, dtype=torch.uint8 if twice else torch.float32)
    packed = bnb.nn.Linear4bit(**_shape(linear), compute_dtype=dtype, quant_type="nf4")
    packed.weight = bnb.nn.Params4bit(
        _empty(-(-size // 2), 1, dtype=torch.uint8),
        requires_grad=False,
        quant_type="nf4",
        blocksize=BLOCK,
        compress_statistics=twice,
        bnb_quantized=True,
        module=packed,
        quant_state=QuantState(absmax=absmax, shape=torch.Size(features(linear)[::-1]), **settings),
    )
    packed.bias = _bias(linear)
    return packed


def _in_8_bits(linear: nn.Module) -> nn.Module:
    import bitsandbytes as bnb

    packed = bnb.nn.Linear8bitLt(**_shape(linear), has_fp16_weights=False)
    inside, outside = features(linear)
    weight = bnb.nn.Int8Params(_empty(outside, inside, dtype=torch.int8), requires_grad=False, has_fp16_weights=False)
    weight.CB, weight.SCB = weight.data, _empty(outside)
    packed.weight, packed.bias = weight, _bias(linear)
    return packed


def _scales_of(module: nn.Module) -> int:
    """Bytes of what a packed layer keeps beside its weight and is no parameter or buffer of it."""
    weight = getattr(module, "weight", None)
    state, scales = getattr(weight, "quant_state", None), getattr(weight, "SCB", None)
    if scales is not None:
        return int(scales.nbytes)
    if state is None:
        return 0
    inner = state.state2
    nested = (inner.absmax, inner.code, state.offset) if inner is not None else ()
    return sum(int(tensor.nbytes) for tensor in (state.absmax, state.code, *nested))


def _bias(linear: nn.Module) -> Any:
    return getattr(linear, "bias", None)


def _shape(linear: nn.Module) -> dict[str, Any]:
    inside, outside = features(linear)
    return {
        "input_features": inside,
        "output_features": outside,
        "bias": _bias(linear) is not None,
        "device": "meta",
    }


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def weight_bytes(model: nn.Module) -> int:
    """What the parameters and buffers of a model take, with whatever is attached; what shares memory once."""
    taken: dict[tuple[StorageWeakRef, int], int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        place = StorageWeakRef(tensor.untyped_storage()), int(tensor.storage_offset())
        taken[place] = max(taken.get(place, 0), tensor.nbytes)
    return sum(taken.values()) + sum(map(_scales_of, model.modules()))
