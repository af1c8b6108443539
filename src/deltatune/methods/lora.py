r"""LoRA: low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685, section 4).

.. math:: y = W_0 x + \frac{\alpha}{r} B A\, \mathrm{dropout}(x)

with A ``[r, in]`` and B ``[out, r]`` trained and W₀ ``[out, in]`` frozen. A starts Kaiming-uniform and B at
zero, so a fresh delta is the identity. An embedding is the linear map of one-hot rows: there A ``[r, vocabulary]``
starts at zero and B ``[dim, r]`` normal. Saved: A and B of each site, in Hugging Face PEFT's layout.

Variants, each a setting:

- ``rslora``: the scale is α/√r (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732).
- ``init="pissa"``: A and B start as the r largest singular directions of W₀ (Meng et al. 2024,
  https://arxiv.org/abs/2404.02948). The paper takes them out of W₀; here the base keeps its bytes and the frozen
  start A₀, B₀ is subtracted instead, which is the same function: :math:`y = W_0 x + s (B A - B_0 A_0) x`. It is
  saved as the plain LoRA of rank 2r that this is.
- ``init="orthogonal"``: A and B start with orthonormal factors in complementary subspaces, so that BA = 0 though
  neither is zero. ``r`` must be even.
- ``lr_ratio``: B learns with a multiple of A's rate, LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354).
- ``bias``: trains biases too, of the sites (``"lora_only"``) or of every module that has one (``"all"``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import dense, features, is_linear, lookup_scale, stored
from deltatune.attachment.part import Params, Part, master_dtype
from deltatune.attachment.sites import Site, base_modules, by_name, find_sites, is_pattern
from deltatune.errors import ConfigError
from deltatune.io.peft_layout import as_modules, as_patterns, as_targets, in_layers
from deltatune.methods.base import Method, check, inside, is_int, is_number
from deltatune.methods.lowrank import low_rank_update
from deltatune.methods.shift import Shift

__all__ = ["LoRA", "LoRAPart", "common_settings", "lies_transposed"]

Init = Literal["default", "gaussian", "pissa", "orthogonal"]
Bias = Literal["none", "all", "lora_only"]
L = TypeVar("L", bound="LoRA")


@dataclass(frozen=True)
class LoRA(Method):
    """Low-rank adaptation. See the module's docstring for the equation and :class:`Method` for the common settings.

    Args:
        r: the rank. Default: 8.
        alpha: the product is scaled by ``alpha / r``. Default: 16.
        targets: Default: query and value projections, as in the paper.
        dropout: probability of dropping entries of the input of A, in training only. Default: 0.
        bias: which biases to train: ``"none"`` (default), ``"lora_only"`` or ``"all"``.
        init: how A and B start: ``"default"``, ``"gaussian"`` (A normal with deviation 1/r), ``"pissa"`` or
            ``"orthogonal"``.
        rslora: scale by ``alpha / sqrt(r)`` instead. Default: false.
        rank_pattern: another rank for some targets, such as ``{"mlp_down": 16}``; the last match counts.
        alpha_pattern: another alpha for some targets.
        lr_ratio: learning rate of B over that of A. Default: 1; LoRA+ advises about 16.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "lora"
    use_dora: ClassVar[bool] = False
    """What PEFT's LoraConfig calls the kind of method."""

    targets: tuple[str, ...] = ("query", "value")
    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    bias: Bias = "none"
    init: Init = "default"
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    lr_ratio: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        key = self.key
        check(len(self.targets) > 0, f"{key}.targets", "at least one target", self.targets)
        for name, rank in {"r": self.r, **self.rank_pattern}.items():
            check(is_int(rank) and rank >= 1, f"{key} rank of {name}", "a whole number from 1", rank)
            check(
                self.init != "orthogonal" or rank % 2 == 0, f"{key} rank of {name}", "even with init='orthogonal'", rank
            )
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            check(is_number(alpha) and alpha > 0, f"{key} alpha of {name}", "a number above 0", alpha)
        check(is_number(self.dropout) and 0 <= self.dropout < 1, f"{key}.dropout", "0 <= p < 1", self.dropout)
        check(is_number(self.lr_ratio) and self.lr_ratio > 0, f"{key}.lr_ratio", "a number above 0", self.lr_ratio)
        check(self.bias in get_args(Bias), f"{key}.bias", f"one of {get_args(Bias)}", self.bias)
        check(self.init in get_args(Init), f"{key}.init", f"one of {get_args(Init)}", self.init)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        sites = find_sites(model, self.targets, layers=self.layers, exclude=self.exclude)
        ranks = _by_site(model, sites, self.rank_pattern, self.r)
        alphas = _by_site(model, sites, self.alpha_pattern, self.alpha)
        made: dict[str, Part] = {
            site.name: self.part(site, ranks[site.name], self.scale(ranks[site.name], alphas[site.name]), device)
            for site in sites
        }
        if self.bias == "all":
            whole = [site.name for site in self._trained_whole(model, made)]
            others = [(n, m) for n, m in base_modules(model) if not any(inside(n, each) for each in (*made, *whole))]
            rest = {name: module for name, module in others if Shift.fits(module)}
            made |= {name: Shift(module, device) for name, module in rest.items()}
        return made

    def part(self, site: Site, r: int, scale: float, device: torch.device | None) -> LoRAPart:
        """What stands at one site."""
        bias = self.bias != "none"
        return LoRAPart(site.module, r, scale, dropout=self.dropout, init=self.init, bias=bias, device=device)

    def scale(self, r: int, alpha: float) -> float:
        """The factor on BA."""
        return alpha / self._divisor(r)

    def _divisor(self, r: int) -> float:
        return math.sqrt(r) if self.rslora else r

    def learning_rate_scale(self, parameter: str) -> float:
        return self.lr_ratio if parameter.endswith("lora_B") else 1.0

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        """PEFT's LoraConfig, with the rank and alpha that each site's factors really have in the file."""
        lora = {site: part for site, part in delta.items() if isinstance(part, LoRAPart)}
        filed = {site: (part.rank, part.scale * self._divisor(part.rank)) for site, part in lora.items()}
        if not lora:  # all that it has are modules trained whole
            raise ConfigError(f"{self.key}: expected factors at a site, found none; PEFT has no form for it")
        (rank, alpha), _ = Counter(filed.values()).most_common(1)[0]
        return {
            "peft_type": "LORA",
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": self.dropout,
            "bias": self.bias,
            "use_rslora": self.rslora,
            "use_dora": self.use_dora,
            "init_lora_weights": True,
            "fan_in_fan_out": any(lies_transposed(model.get_submodule(site)) for site in lora),
            "rank_pattern": {site: r for site, (r, _) in filed.items() if r != rank},
            "alpha_pattern": {site: a for site, (_, a) in filed.items() if a != alpha},
            "target_modules": list(lora),
        }

    @classmethod
    def from_peft_config(cls: type[L], config: Mapping[str, Any]) -> L | None:
        if config.get("peft_type") != "LORA" or bool(config.get("use_dora")) != cls.use_dora:
            return None
        return cls(
            **common_settings(config),
            r=config.get("r", 8),
            alpha=config.get("lora_alpha", 8),
            bias=config.get("bias", "none"),
            rslora=config.get("use_rslora", False),
            rank_pattern=as_patterns(config.get("rank_pattern")),
            alpha_pattern=as_patterns(config.get("alpha_pattern")),
        )


class LoRAPart(Part):
    """A and B of one site."""

    is_linear = True
    init_A: Tensor
    init_B: Tensor

    def __init__(
        self,
        module: nn.Module,
        r: int,
        scale: float,
        *,
        dropout: float = 0.0,
        init: Init = "default",
        bias: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        weight = module.get_parameter("weight")
        width, height = features(module)
        check(
            r <= min(width, height) or init != "pissa", "lora.r with init='pissa'", f"at most {min(width, height)}", r
        )
        self.r, self.scale, self.dropout, self.init = r, scale, dropout, init
        self.is_lookup = isinstance(module, nn.Embedding)
        self.padding: Any = getattr(module, "padding_idx", None)
        """The token that learns nothing, as in the embedding itself."""
        self.lookup_scale = lookup_scale(module)
        self.is_pissa = init == "pissa"
        options: dict[str, Any] = {"dtype": master_dtype(weight.dtype), "device": device or weight.device}
        self.lora_A = nn.Parameter(torch.empty(r, width, **options))
        self.lora_B = nn.Parameter(torch.empty(height, r, **options))
        if self.is_pissa:
            self.register_buffer("init_A", torch.empty(r, width, **options))
            self.register_buffer("init_B", torch.empty(height, r, **options))
        self.shift = Shift(module, device) if bias and Shift.fits(module) else None
        if not self.lora_A.is_meta:
            self.initialize(module)

    @property
    def rank(self) -> int:
        """The rank in a file."""
        return 2 * self.r if self.is_pissa else self.r

    @torch.no_grad()
    def initialize(self, module: nn.Module) -> None:
        """Put A and B where they start."""
        A, B = self.lora_A, self.lora_B
        match self.init:
            case "pissa":
                U, S, Vh = torch.linalg.svd(stored(module, dense(module)).to(A.dtype), full_matrices=False)
                root = (S[: self.r] / self.scale).sqrt()
                A.copy_(root[:, None] * Vh[: self.r])
                B.copy_(U[:, : self.r] * root)
                self.init_A.copy_(A)
                self.init_B.copy_(B)
            case "orthogonal":
                Q = torch.linalg.qr(torch.randn(self.r, self.r, dtype=A.dtype, device=A.device)).Q
                A.copy_(Q[0::2].t() @ torch.randn_like(A[: self.r // 2]) / 10)
                B.copy_(torch.randn_like(B[:, : self.r // 2]) @ Q[1::2] / 10)
            case _ if self.is_lookup:
                A.zero_()
                B.normal_()
            case "gaussian":
                A.normal_(std=1 / self.r)
                B.zero_()
            case "default":
                nn.init.kaiming_uniform_(A, a=math.sqrt(5))
                B.zero_()

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B of the whole change: PiSSA's holds its frozen start with the sign turned."""
        if not self.is_pissa:
            return self.lora_A, self.lora_B
        return torch.cat([self.lora_A, self.init_A]), torch.cat([self.lora_B, -self.init_B], dim=1)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        out = self.update(x, out)
        return out if self.shift is None else self.shift(x, out)

    def update(self, x: Tensor, out: Tensor) -> Tensor:
        """``out`` with all of this part but a trained bias."""
        return self.add(x, out, *self.factors(), self.dropout if self.training else 0.0)

    def add(self, x: Tensor, out: Tensor, A: Tensor, B: Tensor, dropout: float = 0.0) -> Tensor:
        """``out + scale * B A dropout(x)``; at an embedding x are token ids, and none is dropped."""
        if self.is_lookup:
            rows = F.embedding(x, A.t().to(out.dtype), padding_idx=self.padding)
            return torch.add(out, F.linear(rows, B.to(out.dtype)), alpha=self.scale * self.lookup_scale)
        return low_rank_update(out, x, A, B, self.scale, dropout)

    @property
    def names(self) -> tuple[str, str]:
        """What a file calls A and B."""
        return ("lora_embedding_A", "lora_embedding_B") if self.is_lookup else ("lora_A.weight", "lora_B.weight")

    def shapes(self) -> dict[str, torch.Size]:
        sizes = torch.Size([self.rank, self.lora_A.shape[1]]), torch.Size([self.lora_B.shape[0], self.rank])
        biases = {} if self.shift is None else {f"base_layer.{n}": size for n, size in self.shift.shapes().items()}
        return dict(zip(self.names, sizes, strict=True)) | biases

    def export(self, module: nn.Module) -> Params:
        factors = (factor.detach() for factor in self.factors())
        biases = {} if self.shift is None else {f"base_layer.{n}": b for n, b in self.shift.export(module).items()}
        return dict(zip(self.names, factors, strict=True)) | biases

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        A, B = (tensors[name] for name in self.names)
        self.lora_A.copy_(A[: self.r])
        self.lora_B.copy_(B[:, : self.r])
        if self.is_pissa:
            self.init_A.copy_(A[self.r :])
            self.init_B.copy_(-B[:, self.r :])
        if self.shift is not None:
            self.shift.restore(module, {"bias": tensors["base_layer.bias"]})

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        W = params["weight"]
        A, B = (factor.detach().to(W) for factor in self.factors())
        folded = params | {"weight": W + weight * self.scale * stored(module, B @ A)}
        return folded if self.shift is None else self.shift.fold(module, folded, weight)


# What the config of this family's methods in PEFT says that is read here, or that changes only how they train or are
# kept. Any other entry that says something changes the function that the file stands for, so it is refused.
_READ = frozenset(
    {
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "beta1",
        "beta2",
        "bias",
        "corda_config",
        "deltaT",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "init_r",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "modules_to_save",
        "orth_reg_weight",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "target_r",
        "task_type",
        "tfinal",
        "tinit",
        "total_step",
        "use_dora",
        "use_rslora",
    }
)

# These take their start out of the base's weights, and PEFT does so again when it loads the file.
_CHANGE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def _by_site(model: nn.Module, sites: Iterable[Site], pattern: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Each site's value: the default, or that of the last entry of ``pattern`` whose target names the site.

    A regular expression may name none of them.
    """
    values = dict.fromkeys((site.name for site in sites), default)
    for target, value in pattern.items():
        if is_pattern(target):
            named = by_name(values, target)
        else:
            named = [site.name for site in find_sites(model, (target,)) if site.name in values]
        if not named and not is_pattern(target):
            raise ConfigError(f"lora pattern {target!r}: expected a target among the sites, found none; widen targets")
        values |= dict.fromkeys(named, value)
    return values


def common_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that every method of this family has, from PEFT's.

    Raises:
        ConfigError: the file says something that would change what it computes and that is unknown here.
    """
    for name, found in config.items():
        check(name in _READ or not found, f"adapter_config.json: {name}", "nothing that is unknown here", found)
    init = str(config.get("init_lora_weights")).lower()
    check(
        not init.startswith(_CHANGE_BASE),
        "adapter_config.json: init_lora_weights",
        "a start that leaves the base as it is",
        config.get("init_lora_weights"),
        "save it in PEFT with path_initial_model_for_weight_conversion",
    )
    targets = as_targets(config.get("target_modules"))
    check(bool(targets), "adapter_config.json: target_modules", "names or a pattern", config.get("target_modules"))
    layers = config.get("layers_to_transform")
    if layers in (None, []):
        layers = None
    elif config.get("layers_pattern"):
        targets, layers = in_layers(targets, layers, config["layers_pattern"]), None
    return {
        "targets": targets,
        "layers": layers,
        "exclude": as_targets(config.get("exclude_modules")),
        "train_also": as_modules(config.get("modules_to_save")),
        "dropout": config.get("lora_dropout", 0.0),
    }


def lies_transposed(module: nn.Module) -> bool:
    """Whether a linear ``module`` keeps its weight as ``[in, out]``: what PEFT calls ``fan_in_fan_out``."""
    return is_linear(module) and stored(module, torch.empty(1, 2)).shape != (1, 2)
