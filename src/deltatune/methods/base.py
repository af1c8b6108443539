"""What a method is: a frozen, validated description that makes the parts of a delta."""

from __future__ import annotations

import dataclasses
import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard, TypeVar

import torch
from torch import nn

from deltatune.attachment.bank import find_bank
from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Params, Part, Replacement
from deltatune.attachment.sites import Site, find_modules, fresh_heads, refuse_packed
from deltatune.errors import ConfigError
from deltatune.io.peft_layout import from_keys, to_keys

if TYPE_CHECKING:
    from deltatune.train.hooks import Step

__all__ = ["Method", "check", "inside", "is_int", "is_number"]

M = TypeVar("M", bound="Method")


@dataclass(frozen=True)
class Method(ABC):
    """What to attach, and where.

    A method is data: two equal descriptions make equal deltas on one base. Subclasses add the paper's settings and
    say in :meth:`parts` what stands at each site.

    Args:
        targets: where to act: semantic names (``query key value attention_output mlp_gate mlp_up mlp_down
            all_linear embedding``), module names or their ends, or full regular expressions.
        layers: which layers: numbers, ``"2-5"``, ``"first:4"``, ``"last:8"``, or several. Default: all.
        exclude: targets to leave out.
        train_also: modules to train whole beside the method, such as ``("classifier",)``. Default: ``None``, the
            head of a model that has a fresh one (sequence classification and the like); ``()`` for none.
    """

    targets: tuple[str, ...] = ()
    layers: int | str | tuple[int | str, ...] | None = None
    exclude: tuple[str, ...] = ()
    train_also: tuple[str, ...] | None = None

    key: ClassVar[str]
    """The method's name in the table of methods, on the command line and in files."""

    reads_the_rest: ClassVar[bool] = False
    """Whether :meth:`from_peft_config` takes what no other method does."""

    is_whole_in_file: ClassVar[bool] = True
    """Whether a file holds all the tensors of a part; if not, it is put into parts made as for a fresh delta."""

    def __post_init__(self) -> None:
        for name in ("targets", "exclude", "train_also"):
            value = getattr(self, name)
            if value is not None:
                names = (value,) if isinstance(value, str) else tuple(value)
                check(all(isinstance(each, str) for each in names), f"{self.key}.{name}", "names of modules", value)
                object.__setattr__(self, name, names)
        if isinstance(self.layers, list):
            object.__setattr__(self, "layers", tuple(self.layers))
        several = self.layers if isinstance(self.layers, tuple) else (self.layers,)
        numbers = all(isinstance(each, (int, str)) for each in several if self.layers is not None)
        check(numbers, f"{self.key}.layers", "numbers, ranges such as '2-5', 'first:4' or 'last:8'", self.layers)

    @abstractmethod
    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        """What stands at each site: the site's name to a fresh part.

        Args:
            model: the base; read, never changed.
            device: where the tensors are made. Default: each on its site's device. On ``meta`` only shapes matter.
        """

    def bind(self, model: nn.Module, device: torch.device | None = None) -> dict[str, Part]:
        """All the parts of a delta on ``model``: the method's own and the modules trained whole."""
        parts = self.parts(model, device)
        whole = self._trained_whole(model, parts)
        parts = {name: part for name, part in parts.items() if not any(inside(name, site.name) for site in whole)}
        return parts | {site.name: Replacement(_answering(model, site), device) for site in whole}

    def _trained_whole(self, model: nn.Module, parts: Mapping[str, Part]) -> list[Site]:
        if self.train_also is not None:
            found = find_modules(model, self.train_also)
            inner = {each.name for each in found for other in found if inside(each.name, other.name) and each != other}
            return [each for each in found if each.name not in inner]
        heads = [head for head in fresh_heads(model) if not any(inside(name, head.name) for name in parts)]
        refuse_packed(heads)
        return heads

    def learning_rate_scale(self, parameter: str) -> float:
        """The factor on the learning rate for a parameter of a part, by its attribute name."""
        return 1.0

    def prepare(self, delta: Delta, batches: Iterable[Mapping[str, Any]]) -> None:
        """Look at the training data before the first step; ``dt.Trainer`` and ``dt.prepare`` call it once.

        Args:
            delta: the delta, on its model.
            batches: keyword arguments of the model's forward pass, with labels.
        """

    def before_step(self, delta: Delta, step: Step) -> None:
        """After gradients are made and clipped, before the optimiser uses them."""

    def after_step(self, delta: Delta, step: Step) -> None:
        """After the optimiser changed the tensors."""

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        """The entries of ``adapter_config.json`` with which Hugging Face PEFT rebuilds ``delta``."""
        raise ConfigError(f"{self.key}: Hugging Face PEFT has no form for it; read it with deltatune")

    def pack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        """The tensors of a file, from those of the parts under ``<site>.<name>``. Default: PEFT's keys for them."""
        return to_keys(tensors)

    def unpack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        """The reverse of :meth:`pack`; given tensors on the meta device too, when a file's shapes are checked."""
        return from_keys(tensors)

    @classmethod
    def from_peft_config(cls: type[M], config: Mapping[str, Any]) -> M | None:
        """The method that an ``adapter_config.json`` describes, or ``None`` if it is not one of this kind."""
        return None

    def to_config(self) -> dict[str, Any]:
        """The settings that differ from the defaults, as plain data, with the method's key."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != _default(field)
        }
        return {"method": self.key, **settings}

    @classmethod
    def from_config(cls: type[M], settings: Mapping[str, Any]) -> M:
        """The method with these settings.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            check(
                name in known,
                f"{cls.key}.{name}",
                f"one of {', '.join(known)}",
                "an unknown setting",
                _near(name, known),
            )
        return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})


def check(holds: bool, name: str, expected: str, found: object, hint: str = "") -> None:
    """Raise a :class:`ConfigError` in the one form all settings use, unless ``holds``."""
    if not holds:
        raise ConfigError(f"{name}: expected {expected}, found {found!r}" + (f"; {hint}" if hint else ""))


def is_int(value: object) -> TypeGuard[int]:
    """Whether a setting is a whole number, which Python's truth values are too."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a setting is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _answering(model: nn.Module, site: Site) -> nn.Module:
    """What answers at ``site`` now: the copy that the last delta trained there, or the base's own module."""
    bank = find_bank(model)
    if bank is None or site.name not in bank.hooks:
        return site.module
    parts = bank.hooks[site.name].parts.items()
    copies = [part.copy for name, part in parts if isinstance(part, Replacement) and bank[name].enabled]
    return copies[-1] if copies else site.module


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "remove it"


def inside(name: str, module: str) -> bool:
    """Whether the module of that name is another one, or a part of it."""
    return name == module or name.startswith(module + ".")
