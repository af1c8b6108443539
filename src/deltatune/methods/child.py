r"""Child-Tuning: train a part of the network (Xu et al. 2021, https://arxiv.org/abs/2109.05687, section 3).

With W a parameter of the base, g its gradient and M a mask of W's shape that picks the *child*:

.. math:: W \leftarrow W - \eta\, \mathrm{step}(g \odot M)

- ``mode="D"`` (task-driven): M is fixed before the first step. The Fisher information of each entry is estimated as
  :math:`F_i = \frac{1}{N} \sum_n g_{n,i}^2` over the N batches of the training data, with :math:`g_n` the gradient of a
  batch's loss at the pretrained weights; the share ``p`` of all entries together with the largest F is the child.
- ``mode="magnitude"``, ``mode="random"``: M is fixed on attaching, without data: the largest |W| of all entries
  together, or a random share ``p`` of each parameter.
- ``mode="F"`` (task-free): a fresh :math:`M_t \sim \mathrm{Bernoulli}(p)` each step, and g ⊙ M_t / p, whose mean is g.

The child is taken from every parameter of the numbered layers: weights, biases and norms. Embeddings, the pooler and
what else lies outside the layers stay frozen, where the authors' code trains them whole; ``targets=("all",)`` lets the
child be taken from them too. A task head trains whole, as usual.

**Fixed masks** hold for each parameter k indices ``[k]`` and k values ``[k]``, which start as the base's: a fresh
delta is the identity. The values lie in the base's parameters while the delta is on. Autograd's dense gradient of a
parameter gives the k entries of interest and is freed at once, and the optimiser keeps its state for them alone; weight
decay, being the optimiser's, touches nothing else. Saved: the indices, and the values themselves. A difference would
not do: in floating point W + (W' − W) is not W', and it depends on the dtype of the base that it is added to.

**Mode F** holds a whole copy of each parameter ``W.shape``, which takes the place of the base's while the delta is on
(the same memory, if the base is float32). Saved: that copy, so a file is as large as the parameters it trains. Every
tensor of the delta is masked, a task head's too. Momentum goes on moving entries that a step leaves out, as in the
paper.

Stacked, each delta adds what it has changed: where two train the same entry, both changes count.

The paper: batches of 16, 3 epochs, learning rate 4e-5, weight decay 0.01, warm-up 0.1; p about 0.3, for D 0.1 to 0.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import bare
from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import is_quantized
from deltatune.attachment.part import Params, Part, master_dtype
from deltatune.attachment.sites import Site, find_sites, head_modules
from deltatune.errors import AttachError, FileFormatError, SiteError
from deltatune.methods.base import Method, check, is_number
from deltatune.methods.fisher import fisher, untrained
from deltatune.methods.topk import shares, top_k
from deltatune.train.hooks import Step

__all__ = ["ChildTuning"]

Mode = Literal["D", "F", "magnitude", "random"]

LAYERS = r"(.*\.)?\d+(\..*)?"
"""The modules in numbered layers."""


@dataclass(frozen=True)
class ChildTuning(Method):
    """Child-Tuning. See the module's docstring for the equations and :class:`Method` for the common settings.

    Args:
        mode: how the child is chosen: ``"D"`` (default) by Fisher information, which needs the training data:
            ``dt.Trainer`` sees to it, in a loop of your own call ``dt.prepare(model, batches)``; ``"F"`` at random anew
            each step; ``"magnitude"`` by |W| or ``"random"``, once.
        p: the child's share of the entries; in mode F the probability of each, each step. Default: 0.3.
        targets: whose parameters to choose from, modules of any kind. Default: those in numbered layers.

    Raises:
        ConfigError: a setting is out of range.
        SiteError: a target has no parameters, or packed ones, on attaching.
    """

    key: ClassVar[str] = "child"

    targets: tuple[str, ...] = (LAYERS,)
    mode: Mode = "D"
    p: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.targets) > 0, "child.targets", "at least one target", self.targets)
        check(self.mode in get_args(Mode), "child.mode", f"one of {get_args(Mode)}", self.mode)
        check(is_number(self.p) and 0 < self.p <= 1, "child.p", "a share above 0, up to 1", self.p)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        parts: dict[str, Part] = {}
        seen: set[int] = set()
        for site in self._sites(model):
            own = {name: p for name, p in site.module.named_parameters(recurse=False) if id(p) not in seen}
            seen |= {id(parameter) for parameter in own.values()}
            if own:  # tied parameters train where they come first
                parts[site.name] = ChildPart(own, self.mode, device)
        pieces, parameters = _pieces(model, parts)
        sizes = zip(pieces, parameters, shares([p.numel() for p in parameters], self._k(parameters)), strict=True)
        if device == torch.device("meta") or any(parameter.is_meta for parameter in parameters):
            for piece, _, k in sizes:
                piece.expect(k)  # where the entries lie is not known there, only how many there are
        elif self.mode == "random":
            for piece, parameter, k in sizes:
                piece.choose(parameter, torch.randperm(parameter.numel())[:k].sort().values)
        elif self.mode == "magnitude":
            self._choose(pieces, parameters, [p.detach().abs().to(master_dtype(p.dtype)) for p in parameters])
        return parts

    def _sites(self, model: nn.Module) -> list[Site]:
        heads = head_modules(model)
        sites = find_sites(
            model,
            self.targets,
            layers=self.layers,
            exclude=self.exclude,
            fits=lambda module: module not in heads and any(True for _ in module.parameters(recurse=False)),
            expected="a module with parameters of its own, outside the head",
        )
        packed = next((site for site in sites if is_quantized(site.module)), None)
        if packed is not None:
            raise SiteError(
                f"{packed.name}: expected parameters to train, found packed ones ({type(packed.module).__name__}); "
                "load the base without quantisation, or target other modules"
            )
        return sites

    def _k(self, parameters: Sequence[Tensor]) -> int:
        return max(1, round(self.p * sum(parameter.numel() for parameter in parameters)))

    def _choose(self, pieces: Sequence[Piece], parameters: Sequence[Tensor], scores: Sequence[Tensor]) -> None:
        for piece, parameter, places in zip(pieces, parameters, top_k(scores, self._k(parameters)), strict=True):
            piece.choose(parameter, places)

    def prepare(self, delta: Delta, batches: Iterable[Mapping[str, Any]]) -> None:
        """Mode D: choose the child, unless the delta has one. Runs the model once over the batches."""
        pieces, parameters = _pieces(delta.model, dict(delta.items()))
        if all(piece.is_chosen for piece in pieces):
            return
        with untrained(delta.model):
            scores = fisher(delta.model, parameters, batches)
        with bare(delta.model):
            self._choose(pieces, parameters, scores)

    def before_step(self, delta: Delta, step: Step) -> None:
        """Mode F: mask the gradients. Masks follow from torch's global stream, so a resumed run draws the same ones."""
        if self.mode == "F":
            for parameter in delta.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(torch.empty_like(parameter.grad).bernoulli_(self.p)).div_(self.p)
        for _, part in delta.items():
            if isinstance(part, ChildPart):
                part.check_chosen()


def _pieces(model: nn.Module, parts: Mapping[str, Part]) -> tuple[list[Piece], list[nn.Parameter]]:
    """The children in all parameters of a delta, and these parameters."""
    pieces: list[Piece] = []
    parameters: list[nn.Parameter] = []
    for site, part in parts.items():
        if isinstance(part, ChildPart):
            pieces += [piece for _, piece in part.items()]
            parameters += [model.get_submodule(site).get_parameter(name) for name in part.changes]
    return pieces, parameters


class Piece(nn.Module):
    """What is trained of one parameter: the values that stand in it while the delta is on.

    Args:
        parameter: as it is in the base.
        size: of the values. Default: the parameter's.
        device: where the values are kept. Default: the parameter's.
    """

    start: Tensor | None
    """What the base has in place of the values."""
    below: Tensor | None
    """What the delta found in their place when it was put in: the same, but for deltas below it."""
    is_chosen = True
    """Whether it is known which entries are trained."""

    def __init__(self, parameter: nn.Parameter, size: torch.Size, device: torch.device | None) -> None:
        super().__init__()
        self.whole = parameter.numel()
        self.is_matrix = parameter.dim() > 1
        dtype = master_dtype(parameter.dtype)
        self.values = nn.Parameter(torch.empty(size, dtype=dtype, device=device or parameter.device))
        self.written: int | None = None
        self.register_buffer("below", None, persistent=False)

    @property
    def is_stale(self) -> bool:
        """Whether the values have changed since they were put in."""
        return self.values._version != self.written

    def over(self, below: Tensor) -> Tensor:
        """This delta's change on ``below``: the values, exactly, wherever that is the base's own."""
        assert self.start is not None
        values = self.values.detach()
        return torch.where(below == self.start, values, below + (values - self.start))

    def taken(self, parameter: Tensor) -> Tensor:
        """The entries that are trained, out of something of the parameter's shape."""
        raise NotImplementedError

    def choose(self, parameter: Tensor, places: Tensor) -> None:
        """Train the entries at ``places``, which begin as the base's."""
        raise NotImplementedError

    def expect(self, k: int) -> None:
        """Have room for ``k`` entries, without saying which."""


class Entries(Piece):
    """k entries: ``index [k]`` and ``values [k]``."""

    index: Tensor
    start: Tensor
    former: Tensor | None
    """The memory of the whole parameter, if it had to be exchanged."""

    def __init__(self, parameter: nn.Parameter, device: torch.device | None) -> None:
        super().__init__(parameter, torch.Size([0]), device)
        self.is_chosen = False
        places = torch.int32 if self.whole < 2**31 else torch.int64
        self.register_buffer("index", torch.empty(0, dtype=places, device=self.values.device))
        self.register_buffer("start", torch.empty(0, dtype=parameter.dtype, device=self.values.device))
        self.register_buffer("former", None, persistent=False)

    def expect(self, k: int) -> None:
        self.values.data = self.values.new_empty(k)  # the same parameter, so an optimiser may know it already
        self.index, self.start = self.index.new_empty(k), self.start.new_empty(k)

    def choose(self, parameter: Tensor, places: Tensor) -> None:
        self.index = places.to(self.index)
        self.start = parameter.detach().take(places.to(parameter.device)).to(self.start)
        self.values.data = self.start.to(self.values.dtype, copy=True)
        self._is_known()

    def _is_known(self) -> None:
        self.is_chosen = True
        if not len(self.values):  # some optimisers divide by the size
            self.values.requires_grad_(False)

    def taken(self, parameter: Tensor) -> Tensor:
        return parameter.take(self.index.long())

    def install(self, parameter: nn.Parameter, alone: bool) -> None:
        if self.below is None:
            if not alone:
                self.former, parameter.data = parameter.data, parameter.data.clone()
            self.below = self.taken(parameter.data)
        parameter.data.put_(self.index.long(), self.over(self.below).to(parameter.dtype))
        self.written = self.values._version

    def uninstall(self, parameter: nn.Parameter) -> None:
        assert self.below is not None
        if self.former is None:
            parameter.data.put_(self.index.long(), self.below)
        else:
            parameter.data = self.former
        self.below = self.former = None

    def fold(self, W: Tensor, weight: float) -> Tensor:
        below = self.taken(W)
        above = self.over(below).to(W.dtype)
        return W.clone().put_(self.index.long(), above if weight == 1.0 else torch.lerp(below, above, weight))

    def tensors(self) -> Params:
        return {".index": self.index, ".values": self.values.detach()}

    def restore(self, parameter: Tensor, tensors: Params) -> None:
        index = tensors[".index"].to(self.index.device, torch.int64)
        if bool((index.diff() <= 0).any()) or bool((index < 0).any()) or bool((index >= self.whole).any()):
            raise FileFormatError(
                f"child: expected ascending indices below {self.whole}, found others; fetch the file again"
            )
        self.choose(parameter, index)
        self.values.data.copy_(tensors[".values"])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        values = state_dict.get(prefix + "values")
        if values is not None:  # of a run that had its child, while this one may not have chosen yet
            self.expect(len(values))
            self._is_known()
        super()._load_from_state_dict(state_dict, prefix, *args)


class Whole(Piece):
    """A whole parameter: ``values`` of its shape."""

    def __init__(self, parameter: nn.Parameter, device: torch.device | None) -> None:
        super().__init__(parameter, parameter.shape, device)
        self.register_buffer("start", None, persistent=False)
        if parameter.is_meta or not self.values.is_meta:
            self.restore(parameter, {"": parameter.detach()})

    def over(self, below: Tensor) -> Tensor:
        assert self.start is not None
        if below.data_ptr() == self.start.data_ptr() or torch.equal(below, self.start.to(below.dtype)):
            return self.values.detach()  # where it can be, the parameter and the values are the same memory
        return super().over(below)

    def taken(self, parameter: Tensor) -> Tensor:
        return parameter

    def install(self, parameter: nn.Parameter, alone: bool) -> None:
        if self.below is None:
            self.below = parameter.data
        parameter.data = self.over(self.below).to(parameter.dtype)
        self.written = self.values._version

    def uninstall(self, parameter: nn.Parameter) -> None:
        assert self.below is not None
        parameter.data, self.below = self.below, None

    def fold(self, W: Tensor, weight: float) -> Tensor:
        above = self.over(W).to(W.dtype)
        return above if weight == 1.0 else torch.lerp(W, above, weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Whole:
        """As in the base class; what was the same memory before it is so afterwards, and no second copy is made."""
        is_same = self.below is not None and self.start is not None and self.below.data_ptr() == self.start.data_ptr()
        if is_same:
            self.below = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if is_same:
            assert self.start is not None
            self.below = self.start.data  # as many buffers as before: processes have to have equally many
        return self

    def tensors(self) -> Params:
        return {"": self.values.detach()}

    def restore(self, parameter: Tensor, tensors: Params) -> None:
        self.start = parameter.data  # no copy: what stands in the base's place meanwhile is other memory
        self.values.data.copy_(tensors[""])


class StandIn(torch.autograd.Function):
    """A parameter W with the values v at ``index`` in it already: dv is dW's entries there, and dW is passed on."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor | None, W: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.dtype = values.dtype
        return W.detach()

    @staticmethod
    def backward(ctx: Any, dW: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        dv = dW if index is None else dW.take(index.long())
        return dv.to(ctx.dtype), None, dW if ctx.needs_input_grad[2] else None


class ChildPart(Part):
    """The child within the parameters of one module."""

    is_in_place = True
    is_linear = True

    def __init__(self, parameters: Mapping[str, nn.Parameter], mode: Mode, device: torch.device | None) -> None:
        super().__init__()
        self.changes = tuple(parameters)
        kind = Whole if mode == "F" else Entries
        self.pieces = nn.ModuleDict({name: kind(parameter, device) for name, parameter in parameters.items()})
        self.sizes: dict[str, torch.Size] = {}

    def items(self) -> Iterable[tuple[str, Any]]:
        """The parameters' names with what is trained of them."""
        return self.pieces.items()

    @property
    def acts_on_output(self) -> bool:  # type: ignore[override]
        """Only to refuse to be trained too early."""
        return not all(piece.is_chosen for _, piece in self.items())

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            self.check_chosen()
        return out

    def check_chosen(self) -> None:
        """Refuse to go on without a child."""
        if self.acts_on_output:
            raise AttachError(
                "child: expected the training data before the first step, to choose what to train by its Fisher "
                "information, found none; call dt.prepare(model, batches), or train with dt.Trainer"
            )

    @property
    def is_stale(self) -> bool:  # type: ignore[override]
        return any(piece.is_stale for _, piece in self.items())

    def install(self, module: nn.Module, alone: bool) -> None:
        for name, piece in self.items():
            piece.install(module.get_parameter(name), alone)

    def uninstall(self, module: nn.Module) -> None:
        for name, piece in self.items():
            piece.uninstall(module.get_parameter(name))

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        piece: Any = self.pieces[name]
        return StandIn.apply(piece.values, getattr(piece, "index", None), parameter)  # type: ignore[no-any-return, no-untyped-call]

    def decays(self, name: str) -> bool:
        return bool(self.pieces[name.split(".")[1]].is_matrix)

    def expect(self, shapes: Mapping[str, torch.Size]) -> None:
        """A file knows how many entries of each parameter are in the child; not more than it has."""
        self.sizes = {}
        for name, piece in self.items():
            shape = shapes.get(f"{name}.values", ())
            if len(shape) == 1 and shape[0] <= piece.whole:
                self.sizes |= {f"{name}.index": torch.Size(shape), f"{name}.values": torch.Size(shape)}

    def shapes(self) -> dict[str, torch.Size]:
        own = {name + key: value.shape for name, piece in self.items() for key, value in piece.tensors().items()}
        return {key: self.sizes.get(key, shape) for key, shape in own.items()}

    def export(self, module: nn.Module) -> Params:
        return {name + key: value for name, piece in self.items() for key, value in piece.tensors().items()}

    def restore(self, module: nn.Module, tensors: Params) -> None:
        for name, piece in self.items():
            own = {key: tensors[name + key] for key in piece.tensors()}
            piece.restore(module.get_parameter(name), own)

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        return params | {name: piece.fold(params[name], weight) for name, piece in self.items()}
