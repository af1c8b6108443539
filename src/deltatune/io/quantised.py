"""A base in 4 or 8 bits, by its shapes: bitsandbytes' own layers on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deltatune.attachment.sites import head_modules
from deltatune.io.bases import Quant
from deltatune.io.quiet import require

__all__ = ["quantise", "weight_bytes"]

BLOCK = 64
"""So many weights share a scale (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, section 3)."""
SCALES = 256
"""So many of these scales share another one, if they are quantised too."""


def quantise(model: nn.Module, quant: Quant) -> None:
    """Put packed layers in place of the linear ones, as loading a quantised base does: all but the head.

    Args:
        model: on the meta device; changed.
        quant: as for ``load_base``.

    Raises:
        DeltaError: bitsandbytes is not installed.
    """
    require("bitsandbytes", f"quant={quant!r}")
    heads = head_modules(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module not in heads:
            parent, _, child = name.rpartition(".")
            packed = _in_8_bits(module) if quant == "int8" else _in_4_bits(module, twice=quant == "nf4-double")
            setattr(model.get_submodule(parent), child, packed.requires_grad_(False))
    model.is_quantized = True  # type: ignore[assignment]


def _in_4_bits(linear: nn.Linear, *, twice: bool) -> nn.Module:
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState

    dtype, size = linear.weight.dtype, linear.weight.numel()
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
        quant_state=QuantState(absmax=absmax, shape=linear.weight.shape, **settings),
    )
    packed.bias = linear.bias
    return packed


def _in_8_bits(linear: nn.Linear) -> nn.Module:
    import bitsandbytes as bnb

    packed = bnb.nn.Linear8bitLt(**_shape(linear), has_fp16_weights=False)
    weight = bnb.nn.Int8Params(
        _empty(*linear.weight.shape, dtype=torch.int8), requires_grad=False, has_fp16_weights=False
    )
    weight.CB, weight.SCB = weight.data, _empty(linear.out_features)
    packed.weight, packed.bias = weight, linear.bias
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


def _shape(linear: nn.Linear) -> dict[str, Any]:
    return {
        "input_features": linear.in_features,
        "output_features": linear.out_features,
        "bias": linear.bias is not None,
        "device": "meta",
    }


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def weight_bytes(model: nn.Module) -> int:
    """What the parameters and buffers of a model take, with whatever is attached; tied ones once."""
    tensors = sum(tensor.nbytes for tensor in {*model.parameters(), *model.buffers()})
    return tensors + sum(map(_scales_of, model.modules()))
