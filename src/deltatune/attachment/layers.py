"""What an adaptable module is: its features, and its dense weight whatever way it is stored.

Four kinds of module carry a matrix that a delta can act on. They differ in how the matrix lies in memory:

=================================  ====================  =======================================
module                             stored as             features
=================================  ====================  =======================================
``nn.Linear``                      ``[out, in]``         ``in_features``, ``out_features``
``transformers`` ``Conv1D``        ``[in, out]``         ``nx``, ``nf``
``nn.Embedding``                   ``[in, out]``         ``num_embeddings``, ``embedding_dim``
bitsandbytes 4-bit, 8-bit linear   packed                as ``nn.Linear``
=================================  ====================  =======================================

An embedding is the linear map of a one-hot vector, so everything below speaks of ``[out, in]`` and the table
is the only place that knows better. bitsandbytes is recognised by name and imported only when a layer is its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from deltatune.errors import MergeError

__all__ = [
    "ADAPTABLE",
    "dense",
    "features",
    "is_adaptable",
    "is_channels_first",
    "is_linear",
    "is_lookup",
    "is_quantized",
    "lookup_scale",
    "stored",
]

# These have their features in the dimension after the batch, all others in the last.
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
ADAPTABLE = "Linear, Conv1D, Embedding, Linear4bit or Linear8bitLt"


def is_quantized(module: nn.Module) -> bool:
    """Whether the weight of ``module`` is packed by bitsandbytes."""
    return quantization(module) is not None


def quantization(module: nn.Module) -> str | None:
    """``"4bit"``, ``"8bit"`` or ``None``, read off the class without importing bitsandbytes."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith("bitsandbytes."):
            return {"Linear4bit": "4bit", "Linear8bitLt": "8bit"}.get(cls.__name__)
    return None


def is_linear(module: nn.Module) -> bool:
    """Whether ``module`` maps features by a matrix: ``nn.Linear`` (quantised or not) or ``Conv1D``.

    The output projection of ``nn.MultiheadAttention`` is none of them: torch uses its weight and never calls it.
    """
    return isinstance(module, (nn.Linear, Conv1D)) and not isinstance(module, NonDynamicallyQuantizableLinear)


def is_adaptable(module: nn.Module) -> bool:
    """Whether a matrix delta can act on ``module``."""
    return is_linear(module) or is_lookup(module)


def is_lookup(module: nn.Module) -> bool:
    """Whether ``module`` answers token ids with rows of its weight, at most scaled by one number.

    Some models' position embeddings are classes of their own that compute the ids from something else.
    """
    if not isinstance(module, nn.Embedding):
        return False
    return type(module).forward is nn.Embedding.forward or hasattr(module, "embed_scale")


def lookup_scale(module: nn.Module) -> float:
    """What an embedding multiplies its rows by: 1, but for classes of BART's and Gemma's kind."""
    exact: float | None = getattr(module, "scalar_embed_scale", None)
    if exact is not None:  # kept as a tensor too, and rounded to the precision of the weight
        return float(torch.tensor(exact, dtype=module.get_parameter("weight").dtype))
    return float(getattr(module, "embed_scale", None) or 1.0)


def is_channels_first(module: nn.Module) -> bool:
    """Whether the features of what a module answers are in the dimension after the batch; vision models' norms say."""
    return isinstance(module, CHANNELS_FIRST) or getattr(module, "data_format", None) == "channels_first"


def features(module: nn.Module) -> tuple[int, int]:
    """``(in_features, out_features)`` of an adaptable module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    raise TypeError(f"{type(module).__name__} carries no matrix; expected {ADAPTABLE}")


def stored(module: nn.Module, matrix: Tensor) -> Tensor:
    """Turn ``matrix`` between ``[out, in]`` and the orientation in which ``module`` keeps its weight."""
    return matrix.t() if isinstance(module, (Conv1D, nn.Embedding)) else matrix


def dense(module: nn.Module) -> Tensor:
    """The weight of ``module`` as a dense matrix in its own orientation, dequantised where it is packed.

    Raises:
        MergeError: the packed weight has not been quantised yet, so there is nothing to read.
    """
    weight: Any = module.get_parameter("weight")
    match quantization(module):
        case None:
            return weight.detach()  # type: ignore[no-any-return]
        case "4bit":
            from bitsandbytes.functional import dequantize_4bit

            if weight.quant_state is None:
                raise MergeError(
                    "the 4-bit weight has no quantisation state: expected a loaded base, found one that "
                    "was never moved to a device; call model.to(device) first"
                )
            if getattr(weight.quant_state, "packing_format_for_cpu", False):
                module.state_dict()  # an evaluation on some CPUs packs the weight in another way, which this undoes
            return dequantize_4bit(weight.data, weight.quant_state)
        case _:
            from bitsandbytes.functional import int8_vectorwise_dequant

            state: Any = module.state
            scales: Tensor = weight.SCB if weight.SCB is not None else state.SCB
            return int8_vectorwise_dequant(weight.data, scales)  # type: ignore[no-any-return]
