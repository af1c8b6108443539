r"""AdapterFusion: attention over the outputs of several trained adapters (Pfeiffer et al. 2021,
https://arxiv.org/abs/2005.00247, section 3).

.. math:: s = \mathrm{softmax}_n\big((Q h) \cdot (K z_n)\big), \qquad h' = h + \sum_n s_n V z_n, \qquad z_n = A_n(h)

for the output h ``[d]`` of a site with the adapters A₁ … A_N, which are frozen. Q, K and V ``[d, d]`` are trained at
each site and shared by its adapters. V starts as the identity and Q and K normal with deviation 0.02, so that each
token starts near the mean of what the adapters say; fresh adapters say zero, and over them the start is the base. The
task head of a model that has one trains too. Saved: Q, K, V, a copy of the adapters, and the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment.bank import bank_of, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import add, check_name
from deltatune.attachment.part import Params, Part
from deltatune.errors import MergeError
from deltatune.methods import from_config
from deltatune.methods.base import Method, check
from deltatune.methods.bottleneck import UNMERGED, Bottleneck

__all__ = ["Fusion", "fuse"]

STD = 0.02


@dataclass(frozen=True)
class Fusion(Method):
    """AdapterFusion. See the module's docstring for the equation and :func:`fuse` to make one of trained adapters.

    Args:
        adapters: each adapter's name with the settings of its method, such as
            ``{"sql": {"method": "pfeiffer", "m": 8}}``; all on the same sites. :func:`fuse` fills this in.
        targets: none, since the adapters say where they stand; nor ``layers`` or ``exclude``.

    Raises:
        ConfigError: a setting is out of range, or an adapter is not of a kind that can be fused.
    """

    key: ClassVar[str] = "fusion"

    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.adapters) > 0, "fusion.adapters", "at least one adapter", dict(self.adapters), "see dt.fuse")
        for field_name in ("targets", "layers", "exclude"):
            value = getattr(self, field_name)
            check(not value, f"fusion.{field_name}", "none, since the adapters say where they stand", value)
        in_full = {name: from_config(settings).to_config() for name, settings in self.adapters.items()}
        object.__setattr__(self, "adapters", in_full)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        bound = {name: self._adapters(name, model, device) for name in self.adapters}
        first, *others = bound
        for name in others:
            check(
                bound[name].keys() == bound[first].keys(),
                f"fusion.adapters.{name}",
                f"the {len(bound[first])} sites of {first!r}",
                list(bound[name])[:2],
                "fuse adapters with equal targets and layers",
            )
        return {site: FusionPart({name: parts[site] for name, parts in bound.items()}) for site in bound[first]}

    def _adapters(self, name: str, model: nn.Module, device: torch.device | None) -> dict[str, Bottleneck]:
        parts = from_config(self.adapters[name]).parts(model, device)
        adapters = {site: part for site, part in parts.items() if type(part) is Bottleneck}
        check(
            adapters.keys() == parts.keys(),
            f"fusion.adapters.{name}",
            "nothing but adapters that each follow a site",
            self.adapters[name]["method"],
            "use pfeiffer, or houlsby with train_norms=False",
        )
        return adapters


class FusionPart(Part):
    """Q, K and V of one site, and its adapters, whose tensors are buffers: nothing trains them."""

    def __init__(self, adapters: Mapping[str, Bottleneck]) -> None:
        super().__init__()
        self.names = tuple(adapters)
        self.adapters = nn.ModuleList(adapters.values())
        like = next(iter(adapters.values())).b_up
        self.Q, self.K, self.V = (nn.Parameter(like.new_empty(len(like), len(like))) for _ in range(3))
        if not like.is_meta:
            nn.init.normal_(self.Q, std=STD)
            nn.init.normal_(self.K, std=STD)
            nn.init.eye_(self.V)
        for adapter in adapters.values():
            for name, tensor in list(adapter.named_parameters()):
                delattr(adapter, name)
                adapter.register_buffer(name, tensor.detach())

    def items(self) -> Iterator[tuple[str, Bottleneck]]:
        """Each adapter with its name."""
        return zip(self.names, self.adapters, strict=True)  # type: ignore[arg-type]

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        Q, K, V = (p.to(out.dtype) for p in (self.Q, self.K, self.V))
        z = torch.stack([adapter.change(out) for _, adapter in self.items()], dim=-2)
        asked = F.linear(out, Q) @ K  # (Q h)·(K z) = (Kᵀ Q h)·z
        s = (z @ asked.unsqueeze(-1)).squeeze(-1).softmax(dim=-1)
        return out + F.linear((s.unsqueeze(-2) @ z).squeeze(-2), V)

    def shapes(self) -> dict[str, torch.Size]:
        adapters = {f"{name}.{key}": size for name, each in self.items() for key, size in each.shapes().items()}
        return {name: getattr(self, name).shape for name in "QKV"} | adapters

    def export(self, module: nn.Module) -> Params:
        adapters = {f"{name}.{key}": t for name, each in self.items() for key, t in each.export(module).items()}
        return {name: getattr(self, name).detach() for name in "QKV"} | adapters

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        for name in "QKV":
            getattr(self, name).copy_(tensors[name])
        for name, adapter in self.items():
            adapter.restore(module, {key: tensors[f"{name}.{key}"] for key in adapter.shapes()})

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        raise MergeError(UNMERGED)


def fuse(
    model: nn.Module, names: Iterable[str], *, name: str = "fusion", train_also: tuple[str, ...] | None = None
) -> Delta:
    """Attach an AdapterFusion over trained adapters.

    It holds copies of them. They stay attached and are turned off, since it stands in for them, and may be detached.

    Args:
        model: a model with the adapters attached.
        names: which: two or more, on the same sites.
        name: how to call the fusion. Default: ``"fusion"``.
        train_also: modules to train whole beside it. Default: a fresh head; see :class:`Method`.

    Returns:
        The fusion, trainable and on.

    Raises:
        AttachError: a name is unknown or taken.
        ConfigError: a delta is no adapter that can be fused, or they stand on different sites.
    """
    model = unwrap(model)
    check_name(model, name)
    sources = {each: bank_of(model)[each] for each in names}
    settings = {each: source.method.to_config() for each, source in sources.items()}
    method = Fusion(adapters=settings, train_also=train_also)
    parts = method.bind(model)
    for each, source in sources.items():
        for site, trained in source.items():
            if isinstance(trained, Bottleneck):
                fused = parts[site]
                assert isinstance(fused, FusionPart)
                dict(fused.items())[each].load_state_dict(trained.state_dict())
    for source in sources.values():
        source.disable()
    return add(model, Delta(name, method, parts))
