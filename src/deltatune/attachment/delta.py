"""A delta: what a method made on one base. It is what gets trained, saved, routed and merged."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Part
from deltatune.errors import AttachError

if TYPE_CHECKING:
    from deltatune.methods.base import Method

__all__ = ["Delta"]


class Delta(nn.Module):
    """The trainable tensors of one method on one base, with a name and an on/off switch.

    Made by ``dt.attach`` and ``dt.load``. ``delta.parameters()`` are what it trains; it is on unless
    :meth:`disable` was called, and off while merged, since the base then acts in its place.
    """

    def __init__(self, name: str, method: Method, parts: Mapping[str, Part]) -> None:
        super().__init__()
        self.name = name
        self.method = method
        self.enabled = True
        self.merged = False
        self.sites = tuple(parts)
        """The names of the base's modules where it acts, in the order of the module tree."""
        self.parts = nn.ModuleList(parts.values())
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.fixed = frozenset(name for name, parameter in self.named_parameters() if not parameter.requires_grad)
        """The names of its parameters that never train."""
        self.acts_in_attention = any(part.acts_in_attention for part in parts.values())
        """Whether it puts rows in front of what the base attends to."""
        self.is_in_place = any(part.is_in_place for part in parts.values())
        """Whether it works by changing the base's own parameters, so that it acts on every row or on none."""
        self.home = Home(None)

    @property
    def model(self) -> nn.Module:
        """The model it is attached to.

        Raises:
            AttachError: it is attached to none any more.
        """
        model = self.home.model
        if model is None:
            raise AttachError(
                f"delta {self.name!r}: expected one on a model, found it detached; attach or load it again"
            )
        return model

    def items(self) -> Iterator[tuple[str, Part]]:
        """Each site's name with the part that acts there."""
        return zip(self.sites, self.parts, strict=True)  # type: ignore[arg-type]

    def part(self, index: int) -> Part:
        """The part at the site of that number."""
        return self.parts[index]  # type: ignore[return-value]

    @property
    def acts(self) -> bool:
        """Whether the delta changes what the model computes at its sites."""
        return self.enabled and not self.merged

    def enable(self) -> Delta:
        """Turn the delta on."""
        self.enabled = True
        self._switched()
        return self

    def disable(self) -> Delta:
        """Turn the delta off; it stays attached and keeps its tensors.

        Raises:
            AttachError: it is merged, so the base's own weights would go on acting for it.
        """
        if self.merged:
            raise AttachError(f"delta {self.name!r} is merged into the weights; call dt.unmerge(model) first")
        self.enabled = False
        self._switched()
        return self

    def _switched(self) -> None:
        from deltatune.attachment.bank import find_bank

        bank = None if self.home.model is None else find_bank(self.home.model)
        if bank is not None:
            bank.refresh()

    def freeze(self) -> Delta:
        """Keep acting, but do not train."""
        self.requires_grad_(False)
        return self

    def unfreeze(self) -> Delta:
        """Train again."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in self.fixed)
        return self

    @property
    def size(self) -> int:
        """How many numbers the delta holds as parameters, trained or frozen."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def is_trainable(self) -> bool:
        """Whether any of its tensors requires gradients."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def extra_repr(self) -> str:
        state = "merged" if self.merged else "on" if self.enabled else "off"
        return f"{self.name!r}, {self.method}, {len(self.sites)} sites, {self.size:,} parameters, {state}"


class Home:
    """A delta's way back to its model. Weak, so that deleting a model frees it at once; in a copied model, the copy."""

    def __init__(self, model: nn.Module | None) -> None:
        self.reference = None if model is None else weakref.ref(model)

    @property
    def model(self) -> nn.Module | None:
        return None if self.reference is None else self.reference()

    def __deepcopy__(self, memo: dict[int, Any]) -> Home:
        return Home(memo.get(id(self.model)))

    def __reduce__(self) -> tuple[type[Home], tuple[None]]:
        return Home, (None,)
