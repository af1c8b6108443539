r"""ReLoRA: high-rank training through low-rank rounds (Lialin et al. 2023, https://arxiv.org/abs/2307.05695, part 3).

.. math:: y = W_0 x + s \sum_{i<n} B_i A_i\, x + s B_n A_n\, \mathrm{dropout}(x), \qquad s = \frac{\alpha}{r}

with W₀ ``[out, in]`` frozen, and A_n ``[r, in]`` and B_n ``[out, r]`` of the present round n trained. Every
``restart_every`` steps the round is closed and the next one starts as LoRA does, A Kaiming-uniform and B at zero, so
neither the start nor a restart changes the function. The sum of n products of rank r can have any rank up to n·r.

A restart sets most of the optimiser's moments of A and B to zero, so that they do not pull the new round the old one's
way: the 90% of smallest magnitude, or 99.9% at random; an entry keeps all of its moments or none. Then the learning
rate climbs from 0 back to the run's schedule over ``restart_warmup`` steps. The paper starts all this after some steps
of full training.

Closed rounds are kept as frozen factors and not added to W₀: so the base may be quantised, detaching restores it, and
what is saved is a plain LoRA of rank r·n in Hugging Face PEFT's layout. But each round adds to the cost of a step. With
``fold=True`` the sum goes into the base's own weights instead, as in the paper, for pretraining with many rounds. That
takes one more copy of each site's weight, since detaching still restores the base; a checkpoint and a saved delta hold
that copy, and PEFT has no form for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import bare
from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import is_linear, is_quantized, stored
from deltatune.attachment.part import Params, Part
from deltatune.attachment.sites import Site
from deltatune.errors import ConfigError
from deltatune.methods.base import check, is_int, is_number
from deltatune.methods.lora import LoRA, LoRAPart

if TYPE_CHECKING:
    from deltatune.train.hooks import Step

__all__ = ["ReLoRA"]

Prune = Literal["magnitude", "random"]
NOTHING = torch.Size([0])
RATIOS: dict[Prune, float] = {"magnitude": 0.9, "random": 0.999}


@dataclass(frozen=True)
class ReLoRA(LoRA):
    """High-rank training through low-rank rounds. See the module's docstring, and :class:`LoRA` for the rest.

    The paper trains in full what it does not replace (embeddings, norms, the head): name that in ``train_also``.

    Args:
        r: the rank of a round. Default: 128.
        alpha: the product is scaled by ``alpha / r``. Default: 32.
        targets: Default: all linear modules, as in the paper.
        init: ``"default"`` or ``"gaussian"``; B starts at zero in both, as a restart needs it.
        restart_every: the steps of a round. Default: 5000.
        restart_warmup: the steps after a restart in which the learning rate climbs. Default: 100.
        prune: which of the optimiser's moments a restart sets to zero: those of the smallest ``"magnitude"``
            (default), or ``"random"`` ones.
        prune_ratio: the share of them. Default: 0.9 by magnitude, 0.999 at random.
        fold: put closed rounds into the base's weights. Default: false.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "relora"

    targets: tuple[str, ...] = ("all_linear",)
    r: int = 128
    alpha: float = 32
    restart_every: int = 5000
    restart_warmup: int = 100
    prune: Prune = "magnitude"
    prune_ratio: float | None = None
    fold: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        starts = ("default", "gaussian")
        check(self.init in starts, "relora.init", f"one of {starts}, with B at zero", self.init)
        for name, least in {"restart_every": 1, "restart_warmup": 0}.items():
            value = getattr(self, name)
            check(is_int(value) and value >= least, f"relora.{name}", f"a whole number from {least}", value)
        every, warmup = self.restart_every, self.restart_warmup
        check(warmup < every, "relora.restart_warmup", f"less than restart_every, {every}", warmup)
        check(self.prune in get_args(Prune), "relora.prune", f"one of {get_args(Prune)}", self.prune)
        ratio = self.ratio
        check(is_number(ratio) and 0 <= ratio <= 1, "relora.prune_ratio", "a share from 0 to 1", ratio)

    @property
    def ratio(self) -> float:
        """The share of the moments that a restart sets to zero."""
        return RATIOS[self.prune] if self.prune_ratio is None else self.prune_ratio

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        made = super().parts(model, device)
        if self.fold:
            for site, part in made.items():
                if isinstance(part, ReLoRAPart):
                    _check_foldable(model, site)
        return made

    def part(self, site: Site, r: int, scale: float, device: torch.device | None) -> ReLoRAPart:
        settings: dict[str, Any] = {"dropout": self.dropout, "init": self.init, "bias": self.bias != "none"}
        return ReLoRAPart(site.module, r, scale, folds=self.fold, device=device, **settings)

    def before_step(self, delta: Delta, step: Step) -> None:
        since = step.number % self.restart_every
        if step.number >= self.restart_every and since < self.restart_warmup:
            step.scale_learning_rate(delta, since / self.restart_warmup)

    @torch.no_grad()
    def after_step(self, delta: Delta, step: Step) -> None:
        parts, done = _parts(delta), step.number + 1
        if done == 1:
            _moments(step.optimizer, parts)  # refused now, if at all, and not thousands of steps later
        if done % self.restart_every or done == step.total:
            return
        with bare(delta.model):
            for site, part in parts.items():
                part.restart(delta.model.get_submodule(site))
        for moments in _moments(step.optimizer, parts):
            prune(moments, self.prune, self.ratio)

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        if any(part.folded.numel() for part in _parts(delta).values()):
            raise ConfigError("relora: Hugging Face PEFT has no form for folded weights; merge and save the model")
        return super().peft_config(model, delta)

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> None:
        """Its files are those of LoRA."""
        return


class ReLoRAPart(LoRAPart):
    """A and B of the present round at one site; those of the closed rounds, or the weight that holds them."""

    past_A: Tensor
    past_B: Tensor
    folded: Tensor

    def __init__(self, module: nn.Module, r: int, scale: float, *, folds: bool = False, **settings: Any) -> None:
        super().__init__(module, r, scale, **settings)
        self.is_in_place = folds
        self.is_linear = not folds
        self.changes = ("weight",) if folds else ()
        weight, device = module.get_parameter("weight"), self.lora_A.device
        self.register_buffer("past_A", self.lora_A.detach()[:0].clone())
        self.register_buffer("past_B", self.lora_B.detach()[:, :0].clone())
        self.register_buffer("folded", torch.empty(0, dtype=weight.dtype, device=device))
        self.whole = weight.shape if folds else torch.Size([0])
        """The shape of ``folded`` once there is something in it."""
        self.original: Tensor | None = None
        """The base's weight, while ``folded`` stands in its place."""
        self.register_load_state_dict_pre_hook(_grow)  # type: ignore[no-untyped-call]

    def update(self, x: Tensor, out: Tensor) -> Tensor:
        if len(self.past_A):
            out = self.add(x, out, self.past_A, self.past_B)
        return self.add(x, out, self.lora_A, self.lora_B, self.dropout if self.training else 0.0)

    @torch.no_grad()
    def restart(self, module: nn.Module) -> None:
        """Close the round and start the next one, which is the same function. The base's weights must be its own."""
        if self.is_in_place:
            self.folded = self._folded(module)
        else:
            self.past_A = torch.cat([self.past_A, self.lora_A])
            self.past_B = torch.cat([self.past_B, self.lora_B], dim=1)
        self.initialize(module)

    def _folded(self, module: nn.Module) -> Tensor:
        """The weight with all rounds in it."""
        W = self.folded if self.folded.numel() else module.get_parameter("weight").detach()
        change = stored(module, self.lora_B @ self.lora_A)
        return torch.add(W.to(change.dtype), change, alpha=self.scale).to(W.dtype)

    def install(self, module: nn.Module, alone: bool) -> None:
        weight = module.get_parameter("weight")
        if self.folded.numel():
            self.original = weight.data
            weight.data = self.folded

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        return parameter  # closed rounds are not trained

    def uninstall(self, module: nn.Module) -> None:
        if self.original is not None:
            weight = module.get_parameter("weight")
            weight.data = self.original.to(weight)  # the model may have moved
            self.original = None

    @property
    def rounds(self) -> int:
        """How many rounds a file holds: those that were closed, and the present one if it does something already."""
        closed = len(self.past_A) // self.r
        starts = closed and not self.lora_B.is_meta and not bool((self.lora_A if self.is_lookup else self.lora_B).any())
        return closed if starts else closed + 1

    @property
    def rank(self) -> int:
        return self.r * self.rounds

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B of all rounds."""
        A, B = torch.cat([self.past_A, self.lora_A]), torch.cat([self.past_B, self.lora_B], dim=1)
        return A[: self.rank], B[:, : self.rank]

    def expect(self, shapes: Mapping[str, torch.Size]) -> None:
        if not self.past_A.is_meta:
            return
        past = next(iter(shapes.get(self.names[0], ())), self.r) - self.r
        if past > 0 and past % self.r == 0 and not self.is_in_place:
            self.past_A = self.past_A.new_empty(past, self.past_A.shape[1])
            self.past_B = self.past_B.new_empty(self.past_B.shape[0], past)
        if shapes.get("weight") == self.whole:
            self.folded = self.folded.new_empty(self.whole)

    def shapes(self) -> dict[str, torch.Size]:
        return super().shapes() | ({"weight": self.folded.shape} if self.folded.numel() else {})

    def export(self, module: nn.Module) -> Params:
        return super().export(module) | ({"weight": self.folded} if self.folded.numel() else {})

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        A, B = (tensors[name].to(self.lora_A) for name in self.names)
        past = len(A) - self.r
        self.past_A, self.past_B = A[:past].clone(), B[:, :past].clone()
        super().restore(module, {**tensors, **dict(zip(self.names, (A[past:], B[:, past:]), strict=True))})
        if "weight" in tensors:
            self.folded = tensors["weight"].to(self.folded)

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        folded = super().fold(module, params, weight)
        if not self.folded.numel():
            return folded
        W = folded["weight"]
        change = self.folded.to(W) - module.get_parameter("weight").detach().to(W)
        return folded | {"weight": W + weight * change}


@torch.no_grad()
def prune(moments: Sequence[Tensor], how: Prune, ratio: float) -> None:
    """Set the share ``ratio`` of the entries of a parameter's moments to zero, in all of them.

    If Adam kept the first moment of an entry and lost the second, it would divide by zero: A has no gradient while B is
    zero.

    Args:
        moments: of one shape; the first tells which entries are small.
        how: the smallest entries, or random ones.
        ratio: from 0 to 1.
    """
    first = moments[0]
    if how == "random":
        kept = torch.rand_like(first) >= ratio
    else:
        kept = torch.ones_like(first, dtype=torch.bool)
        kept.view(-1)[first.abs().flatten().topk(round(ratio * first.numel()), largest=False).indices] = False
    for each in moments:
        each.mul_(kept)


def _moments(optimizer: torch.optim.Optimizer, parts: Mapping[str, ReLoRAPart]) -> list[list[Tensor]]:
    """What an optimiser remembers of each entry of A and B, for each of them that it has seen."""
    found = []
    for parameter in (parameter for part in parts.values() for parameter in (part.lora_A, part.lora_B)):
        state = optimizer.state.get(parameter, {})
        moments = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
        wrong = next((each.dtype for each in moments if not each.is_floating_point()), None)
        if wrong is not None:
            raise ConfigError(
                f"relora: expected an optimiser with moments in floating point, found {wrong}; choose another"
            )
        found += [moments] if moments else []
    return found


def _grow(part: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Give the buffers that grow with the rounds the sizes they have in a state that is about to be loaded."""
    assert isinstance(part, ReLoRAPart)
    (_, width), (height, _) = part.lora_A.shape, part.lora_B.shape
    rank = len(state.get(prefix + "past_A", part.past_A)) // part.r * part.r
    sizes = {
        "past_A": torch.Size([rank, width]),
        "past_B": torch.Size([height, rank]),
        "folded": part.whole,
    }
    for name, size in sizes.items():
        own, found = getattr(part, name), state.get(prefix + name)
        if found is not None and found.shape in (size, NOTHING) and found.shape != own.shape:
            setattr(part, name, own.new_zeros(found.shape))


def _check_foldable(model: nn.Module, site: str) -> None:
    """Refuse what folding would harm: packed weights, and weights that another module uses too."""
    module = model.get_submodule(site)
    kind = type(module).__name__
    check(is_linear(module) and not is_quantized(module), f"relora.fold at {site}", "a dense linear module", kind)
    weight = module.get_parameter("weight")
    names = [name for name, other in model.named_parameters(remove_duplicate=False) if other is weight]
    check(len(names) == 1, f"relora.fold at {site}", "a weight of its own", " = ".join(names), "exclude it")


def _parts(delta: Delta) -> dict[str, ReLoRAPart]:
    return {site: part for site, part in delta.items() if isinstance(part, ReLoRAPart)}
