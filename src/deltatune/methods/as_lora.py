"""Any low-rank delta as a plain LoRA, for what reads nothing else."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from deltatune.attachment.bank import bare
from deltatune.attachment.delta import Delta, Home
from deltatune.errors import ConfigError
from deltatune.io.peft_layout import short_names
from deltatune.methods.lora import LoRA, LoRAPart

__all__ = ["as_lora"]


def as_lora(delta: Delta) -> Delta:
    """The plain LoRA that computes what ``delta`` computes, to be saved: ``dt.save(dt.as_lora(delta), folder)``.

    Each site has the rank that is left there: AdaLoRA's triplets become rows of A and columns of B, ReLoRA's rounds and
    PiSSA's start are stacked, and what is zero is left out. The result is frozen and not attached; for that, load the
    saved folder.

    Args:
        delta: one whose change of each weight is a product of two factors, attached to a model.

    Raises:
        ConfigError: ``delta`` is none, or changes nothing yet.
        AttachError: the delta was detached.
    """
    model, method = delta.model, delta.method
    old = {site: part for site, part in delta.items() if isinstance(part, LoRAPart)}
    if not old or not all(part.is_linear for part in old.values()):
        raise ConfigError(
            f"as_lora: expected a sum of products of two factors, found {method.key}; merge or save it as it is"
        )
    factors = {site: _compact(part) for site, part in old.items()}
    ranks = {site: len(A) for site, (A, _) in factors.items() if len(A)}
    if not ranks:
        raise ConfigError(
            f"as_lora: expected a delta that changes something, found {delta.name!r} at its start; train it"
        )
    alphas = {site: old[site].scale * rank for site, rank in ranks.items()}
    r, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    lora = LoRA(
        targets=tuple(short_names(model, ranks)),
        r=int(r),
        alpha=alpha,
        rank_pattern={site: rank for site, rank in ranks.items() if rank != r},
        alpha_pattern={site: value for site, value in alphas.items() if value != alpha},
        dropout=getattr(method, "dropout", 0.0),
        bias=getattr(method, "bias", "none"),
        train_also=method.train_also,
    )
    with bare(model):
        made = Delta(delta.name, lora, lora.bind(model))
        for site, part in made.items():
            module = model.get_submodule(site)
            tensors = dict(delta.items())[site].export(module)
            if isinstance(part, LoRAPart):
                tensors |= dict(zip(part.names, factors[site], strict=True))
            part.restore(module, tensors)
    made.home = Home(model)
    return made.freeze().eval()


@torch.no_grad()
def _compact(part: LoRAPart) -> tuple[Tensor, Tensor]:
    """A and B of a part without the products that are zero; one stays where a trained bias needs its site."""
    A, B = part.factors()
    left = A.any(1) & B.any(0)
    if part.shift is not None and not left.any():
        left[0] = True
    return A[left], B[:, left]
