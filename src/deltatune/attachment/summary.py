"""What is attached to a model, counted."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from deltatune.attachment.bank import find_bank, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.layers import features, is_quantized
from deltatune.attachment.shards import architecture
from deltatune.attachment.sites import BANK

__all__ = ["DeltaRow", "Summary", "base_size", "summary"]


@dataclass(frozen=True)
class DeltaRow:
    """One delta's line."""

    name: str
    method: str
    sites: int
    parameters: int
    share: float
    """Of the base's parameters."""
    trainable: bool
    state: str
    """``on``, ``off`` or ``merged``."""


@dataclass(frozen=True)
class Summary:
    """What :func:`summary` counts. Printing it shows a table."""

    architecture: str
    base_parameters: int
    deltas: tuple[DeltaRow, ...]

    @property
    def trainable_parameters(self) -> int:
        """How many numbers an optimiser would change."""
        return sum(row.parameters for row in self.deltas if row.trainable)

    def __str__(self) -> str:
        head = ("delta", "method", "sites", "parameters", "of base", "trains", "state")
        rows = [
            (
                r.name,
                r.method,
                str(r.sites),
                f"{r.parameters:,}",
                f"{r.share:.3%}",
                "yes" if r.trainable else "no",
                r.state,
            )
            for r in self.deltas
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join([f"{self.architecture}: {self.base_parameters:,} parameters", *lines])


def summary(model: nn.Module) -> Summary:
    """Count the base's parameters and each delta's."""
    model = unwrap(model)
    total = base_size(model)
    bank = find_bank(model)
    return Summary(architecture(model), total, tuple(_row(delta, total) for delta in bank or ()))


def base_size(model: nn.Module) -> int:
    """How many numbers the base holds; tied weights count once, packed ones by their features."""
    seen: set[int] = set()
    total = 0
    for name, module in model.named_modules():
        if name == BANK or name.startswith(BANK + "."):
            continue
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                packed = leaf == "weight" and is_quantized(module)
                total += features(module)[0] * features(module)[1] if packed else parameter.numel()
    return total


def _row(delta: Delta, total: int) -> DeltaRow:
    return DeltaRow(
        delta.name,
        delta.method.key,
        len(delta.sites),
        delta.size,
        delta.size / max(total, 1),
        delta.is_trainable,
        "merged" if delta.merged else "on" if delta.enabled else "off",
    )
