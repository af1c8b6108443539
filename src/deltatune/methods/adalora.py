r"""AdaLoRA: low-rank adaptation with a budget of ranks (Zhang et al. 2023, https://arxiv.org/abs/2303.10512, part 3).

.. math:: y = W_0 x + \frac{\alpha}{r_0} P \Lambda Q\, \mathrm{dropout}(x)

with W₀ ``[out, in]`` frozen and trained: P ``[out, r]``, the diagonal Λ ``[r]`` and Q ``[r, in]``, which files and the
code call B, E and A. P and Q start normal with deviation 0.02 and Λ at zero, so a fresh delta is the identity; the
authors' code divides by r₀ + 1e-5, and so does this.

All sites share one budget. It is their r₀ together for t_i steps, then falls with the cube of the time left to b_T
(``target_r`` a site), and the last t_f steps train what is left:

.. math:: b(t) = b_T + (b_0 - b_T)\Big(1 - \frac{t - t_i}{T - t_i - t_f}\Big)^3.

Every ΔT steps the b(t) triplets (a column of P, an entry of Λ, a row of Q) with the highest scores stay and the others'
entry of Λ is set to zero; it keeps its gradient and may return, until the last t_f steps. With I = |w · ∂L/∂w|, which
is smoothed to Ī = β₁Ī + (1 − β₁)I and Ū = β₂Ū + (1 − β₂)|I − Ī|, a weight scores s = Ī · Ū and a triplet

.. math:: S = s(\lambda) + \operatorname{mean}_j s(P_{j}) + \operatorname{mean}_j s(Q_{j}).

As in the authors' code, I is taken right after the step. P and Q are kept near orthogonal by
γ · mean(‖PᵀP − I‖, ‖QQᵀ − I‖) over all sites. Its gradient is added right before the step, so after any clipping, and
it is not in the reported loss.

Saved: the triplets that are left, under Hugging Face PEFT's names ``lora_A``, ``lora_B`` and ``lora_E``, with the rank
of each site. ``dt.as_lora`` turns them into a plain LoRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import is_linear
from deltatune.attachment.part import Params, Part
from deltatune.attachment.sites import find_sites
from deltatune.methods.base import Method, check, is_int, is_number
from deltatune.methods.lora import LoRAPart, common_settings, lies_transposed

if TYPE_CHECKING:
    from deltatune.train.hooks import Step

__all__ = ["AdaLoRA"]


@dataclass(frozen=True)
class AdaLoRA(Method):
    """Low-rank adaptation with a budget of ranks. See the module's docstring for the equations.

    Args:
        targets: Default: all linear modules, as in the paper.
        target_r: b_T for each site: the mean rank at the end. Default: 8.
        init_r: the rank of every site at the start. Default: 12, half more than at the end.
        alpha: the product is scaled by ``alpha / init_r``. Default: 32.
        dropout: probability of dropping entries of the input of Q, in training only. Default: 0.
        tinit: t_i, the steps before the budget falls. Default: a tenth of the run.
        tfinal: t_f, the steps with the ranks that are left. Default: half of the run, as in the paper's longer ones.
        deltaT: ΔT, the steps between two choices. Default: a thousandth of the run, 1 at least.
        beta1: β₁ of the sensitivity's mean. Default: 0.85.
        beta2: β₂ of the uncertainty's mean. Default: 0.85.
        orth_reg_weight: γ of the orthogonal regulariser. Default: 0.1.
        total_steps: T, the steps of the run. Default: as the trainer, or ``dt.on_step``, says.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "adalora"

    targets: tuple[str, ...] = ("all_linear",)
    target_r: int = 8
    init_r: int = 12
    alpha: float = 32
    dropout: float = 0.0
    tinit: int | None = None
    tfinal: int | None = None
    deltaT: int | None = None
    beta1: float = 0.85
    beta2: float = 0.85
    orth_reg_weight: float = 0.1
    total_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.targets) > 0, "adalora.targets", "at least one target", self.targets)
        for name, least in {"init_r": 1, "target_r": 1, "tinit": 0, "tfinal": 0, "deltaT": 1, "total_steps": 1}.items():
            value = getattr(self, name)
            optional = name not in ("init_r", "target_r")
            fits = (is_int(value) and value >= least) or (value is None and optional)
            check(fits, f"adalora.{name}", f"a whole number from {least}", value)
        check(self.target_r <= self.init_r, "adalora.target_r", f"at most init_r, {self.init_r}", self.target_r)
        check(is_number(self.alpha) and self.alpha > 0, "adalora.alpha", "a number above 0", self.alpha)
        check(is_number(self.dropout) and 0 <= self.dropout < 1, "adalora.dropout", "0 <= p < 1", self.dropout)
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            check(is_number(value) and 0 < value < 1, f"adalora.{name}", "0 < β < 1", value)
        weight = self.orth_reg_weight
        check(is_number(weight) and weight >= 0, "adalora.orth_reg_weight", "a number from 0", weight)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        sites = find_sites(
            model,
            self.targets,
            layers=self.layers,
            exclude=self.exclude,
            fits=is_linear,
            expected="Linear, Conv1D, Linear4bit or Linear8bitLt",
        )
        scale = self.alpha / (self.init_r + 1e-5)
        return {
            site.name: AdaLoRAPart(site.module, self.init_r, scale, dropout=self.dropout, device=device)
            for site in sites
        }

    def schedule(self, total: int | None) -> Schedule:
        """When the budget falls.

        Args:
            total: the steps of the run, where the trainer knows them.

        Raises:
            ConfigError: nobody says how many, or they are too few.
        """
        total = self.total_steps or total
        name, hint = "adalora.total_steps", "set it, or pass total_steps to dt.on_step"
        check(total is not None, name, "the number of steps, over which the budget falls", total, hint)
        assert total is not None
        first = total // 10 if self.tinit is None else self.tinit
        last = total - (total // 2 if self.tfinal is None else self.tfinal)
        last = min(last, total - 1)  # the last step of the run has the final ranks, whatever t_f is
        name, hint = "adalora.tinit and tfinal", "train longer or lower them"
        check(first <= last, name, f"less than {total} together", (self.tinit, self.tfinal), hint)
        return Schedule(first, last, max(1, total // 1000) if self.deltaT is None else self.deltaT)

    @torch.no_grad()
    def before_step(self, delta: Delta, step: Step) -> None:
        self.schedule(step.total)  # a run without an end is refused at its first step
        parts = _parts(delta).values()
        share = self.orth_reg_weight / (2 * len(parts))
        for part in parts:
            A, B = part.lora_A, part.lora_B
            if A.grad is not None and B.grad is not None:
                A.grad.add_(orthogonality_gradient(A), alpha=share)
                B.grad.add_(orthogonality_gradient(B.t()).t(), alpha=share)

    @torch.no_grad()
    def after_step(self, delta: Delta, step: Step) -> None:
        first, last, interval = schedule = self.schedule(step.total)
        parts, t = list(_parts(delta).values()), step.number
        if t < last:
            for part in parts:
                part.observe(self.beta1, self.beta2)
        chooses = t == last or (first < t < last and t % interval == 0)
        if chooses:
            sites = len(parts)
            keep_best(parts, budget(t, self.init_r * sites, self.target_r * sites, schedule))
        if chooses or t > last:
            for part in parts:
                part.lora_E.masked_fill_(~part.kept[:, None], 0)

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        ranks = {site: part.rank for site, part in _parts(delta).items()}
        total = self.total_steps or max(int(delta.steps), 1)
        tinit, tfinal = (
            share if value is None else value for value, share in ((self.tinit, total // 10), (self.tfinal, total // 2))
        )
        pattern = {f"{site}.lora_E": [i < rank for i in range(self.init_r)] for site, rank in ranks.items()}
        return {
            "peft_type": "ADALORA",
            "init_r": self.init_r,
            "target_r": self.target_r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "tinit": tinit,
            "tfinal": tfinal,
            "deltaT": self.deltaT or max(1, total // 1000),
            "beta1": self.beta1,
            "beta2": self.beta2,
            "orth_reg_weight": self.orth_reg_weight,
            "total_step": max(total, tinit + tfinal + 1),
            "rank_pattern": None if all(rank == self.init_r for rank in ranks.values()) else pattern,
            "init_lora_weights": True,
            "fan_in_fan_out": any(lies_transposed(model.get_submodule(site)) for site in ranks),
            "target_modules": list(ranks),
        }

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> AdaLoRA | None:
        if config.get("peft_type") != "ADALORA":
            return None
        bias = config.get("bias", "none")
        check(bias == "none", "adapter_config.json: bias", "'none'", bias)
        return cls(
            **common_settings(config),
            init_r=config.get("init_r", 12),
            target_r=config.get("target_r", 8),
            alpha=config.get("lora_alpha", 8),
            tinit=config.get("tinit", 0),
            tfinal=config.get("tfinal", 0),
            deltaT=config.get("deltaT", 1),
            beta1=config.get("beta1", 0.85),
            beta2=config.get("beta2", 0.85),
            orth_reg_weight=config.get("orth_reg_weight", 0.5),
            total_steps=config.get("total_step"),
        )


FACTORS = ("lora_A", "lora_B", "lora_E")
"""Q, P and Λ, as attributes and in a file."""


class Schedule(NamedTuple):
    """When the budget falls, in steps counted from 0."""

    first: int
    """t_i: it is whole up to here."""
    last: int
    """T − t_f: the final ranks are chosen here."""
    interval: int
    """ΔT."""


def budget(t: int, start: int, end: int, schedule: Schedule) -> int:
    """b(t): how many triplets of all sites stay at step ``t``."""
    if t >= schedule.last:
        return end
    if t <= schedule.first:
        return start
    left = 1 - (t - schedule.first) / (schedule.last - schedule.first)
    return int(end + (start - end) * left**3)


class AdaLoRAPart(LoRAPart):
    """P, Λ and Q of one site, as B, E and A; what is known of their importance; and which triplets are kept."""

    kept: Tensor

    def __init__(self, module: nn.Module, r: int, scale: float, **settings: Any) -> None:
        super().__init__(module, r, scale, **settings)
        self.lora_E = nn.Parameter(torch.zeros_like(self.lora_A[:, :1]))
        self._watch()

    def _watch(self) -> None:
        """Start with every triplet kept and nothing known of it."""
        self.register_buffer("kept", torch.ones_like(self.lora_E[:, 0], dtype=torch.bool))
        self.importance = nn.ModuleDict({name: Importance(getattr(self, name)) for name in FACTORS})

    def initialize(self, module: nn.Module) -> None:
        self.lora_A.data.normal_(std=0.02)
        self.lora_B.data.normal_(std=0.02)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.lora_E * self.lora_A, self.lora_B

    def update(self, x: Tensor, out: Tensor) -> Tensor:
        return super().update(x, out) if self.r else out

    def observe(self, beta1: float, beta2: float) -> None:
        """Take the gradients of a step into the importance of each weight."""
        for name, importance in self.importance.items():
            assert isinstance(importance, Importance)
            importance.observe(getattr(self, name), beta1, beta2)

    def scores(self) -> Tensor:
        """S of each triplet, ``[r]``."""
        A, B, E = (self.importance[name].scores() for name in FACTORS)  # type: ignore[operator]
        scores: Tensor = E[:, 0] + A.mean(1) + B.mean(0)
        return scores

    def surviving(self) -> Tensor:
        """The triplets that do something or may come to, ``[r]``: what is masked but was trained since still counts."""
        return self.kept | (self.lora_E.detach()[:, 0] != 0)

    @property
    def rank(self) -> int:
        return self.r if self.kept.is_meta else int(self.surviving().sum())

    def expect(self, shapes: Mapping[str, torch.Size]) -> None:
        rank = next(iter(shapes.get("lora_E", ())), self.r)
        if self.kept.is_meta and rank < self.r:  # a file has what its run has left
            self.r = rank
            self.lora_A, self.lora_E = (nn.Parameter(p.detach()[:rank]) for p in (self.lora_A, self.lora_E))
            self.lora_B = nn.Parameter(self.lora_B.detach()[:, :rank])
            self._watch()

    def shapes(self) -> dict[str, torch.Size]:
        (_, width), (height, _), rank = self.lora_A.shape, self.lora_B.shape, self.rank
        sizes = ([rank, width], [height, rank], [rank, 1])
        return {name: torch.Size(size) for name, size in zip(FACTORS, sizes, strict=True)}

    def export(self, module: nn.Module) -> Params:
        A, B, E = (getattr(self, name).detach() for name in FACTORS)
        left = self.surviving()
        return {"lora_A": A[left], "lora_B": B[:, left], "lora_E": E[left]}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        rank = len(tensors["lora_E"])
        for name in FACTORS:
            tensor = getattr(self, name).zero_()
            (tensor[:, :rank] if name == "lora_B" else tensor[:rank]).copy_(tensors[name])
        self.kept.copy_(torch.arange(self.r) < rank)
        for buffer in self.importance.buffers():
            buffer.zero_()


class Importance(nn.Module):
    """Ī and Ū of each entry of one tensor."""

    sensitivity: Tensor
    uncertainty: Tensor

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("sensitivity", torch.zeros_like(like, requires_grad=False))
        self.register_buffer("uncertainty", torch.zeros_like(like, requires_grad=False))

    def observe(self, weight: Tensor, beta1: float, beta2: float) -> None:
        """Take in one gradient."""
        if weight.grad is None:
            return
        now = (weight * weight.grad).abs()
        self.sensitivity.mul_(beta1).add_(now, alpha=1 - beta1)
        self.uncertainty.mul_(beta2).add_((now - self.sensitivity).abs(), alpha=1 - beta2)

    def scores(self) -> Tensor:
        """Each entry's s."""
        scores: Tensor = self.sensitivity * self.uncertainty
        return scores


def keep_best(parts: Iterable[AdaLoRAPart], number: int) -> None:
    """Keep the ``number`` triplets with the highest scores, wherever they are."""
    parts = list(parts)
    scores = [part.scores() for part in parts]
    together = torch.cat([each.to(scores[0].device) for each in scores])
    kept = torch.zeros_like(together, dtype=torch.bool)
    kept[together.topk(min(number, len(together))).indices] = True
    for part, own in zip(parts, kept.split([len(each) for each in scores]), strict=True):
        part.kept.copy_(own)


def orthogonality_gradient(Q: Tensor) -> Tensor:
    """Of ‖QQᵀ − I‖, for Q ``[r, n]``: 2 (QQᵀ − I) Q / ‖QQᵀ − I‖."""
    residual = Q @ Q.t()
    residual.diagonal().sub_(1)
    size: Tensor = residual.norm().clamp_min(torch.finfo(Q.dtype).tiny)
    return 2 * (residual @ Q) / size


def _parts(delta: Delta) -> dict[str, AdaLoRAPart]:
    return {site: part for site, part in delta.items() if isinstance(part, AdaLoRAPart)}
