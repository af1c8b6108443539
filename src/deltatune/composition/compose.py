"""Make one LoRA of several deltas: attached to a model, or as folders without one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from deltatune.attachment.bank import bank_of, bare, unwrap
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import add, check_name
from deltatune.composition import folders
from deltatune.composition.building import Mixed, build, mix
from deltatune.composition.rules import Choice, Sign
from deltatune.composition.source import Source, read
from deltatune.composition.truncation import Loss, total
from deltatune.composition.ways import WAYS, How
from deltatune.errors import ConfigError
from deltatune.methods.base import check, is_int

__all__ = ["Composed", "Recipe", "compose"]

Rest = Literal["keep", "leave", "refuse"]


@dataclass(frozen=True)
class Composed:
    """What :func:`compose` made."""

    how: str
    weights: dict[str, float]
    rank: int
    """That of every site."""
    losses: dict[str, Loss]
    """How far each site is from what it stands for: for a way on effects, what its rule makes before it is cut to a
    rank; for all others, the weighted sum of the changes, from which cross terms and chosen entries lead away."""
    delta: Delta | None = None
    """The delta, if it is attached to a model."""
    folder: Path | None = None
    """The folder, if it was written to one."""

    @property
    def error(self) -> float:
        """The relative error of all sites together, in the Frobenius norm."""
        return total(self.losses.values()).error

    @property
    def kept(self) -> float:
        """The share of the energy that a way on effects keeps."""
        return total(self.losses.values()).kept


@dataclass(frozen=True)
class Recipe:
    """How to compose: the settings of :func:`compose`, checked.

    Raises:
        ConfigError: a setting is unknown, out of range, or of no use to the way.
    """

    how: How
    rank: int | None = None
    density: float | None = None
    sign: Sign = "total"
    seed: int = 0
    rest: Rest = "keep"

    def __post_init__(self) -> None:
        hint = "call dt.lorahub, which finds the weights" if self.how == "lorahub" else ""  # type: ignore[comparison-overlap]
        check(self.how in WAYS, "compose: how", f"one of {', '.join(WAYS)}", self.how, hint)
        way, rank, density = WAYS[self.how], self.rank, self.density
        whole = is_int(rank) and rank >= 1
        check(rank is None or whole, "compose: rank", "a whole number from 1", rank)
        check(
            rank is None or way.on == "effects",
            f"compose: rank with how={self.how!r}",
            "none, since the ranks of the deltas give it",
            rank,
            "choose svd, or another way that ends in _svd",
        )
        check(way.chooses or density is None, f"compose: density with how={self.how!r}", "none", density)
        share = density is not None and not isinstance(density, bool) and 0 < density <= 1
        check(not way.chooses or share, f"compose: density with how={self.how!r}", "a share above 0, up to 1", density)
        check(self.sign in get_args(Sign), "compose: sign", f"one of {get_args(Sign)}", self.sign)
        check(self.rest in get_args(Rest), "compose: rest", f"one of {get_args(Rest)}", self.rest)

    def mix(self, sources: Sequence[Source], weights: Sequence[float], *, measured: bool = True) -> Mixed:
        """Combine what deltas change."""
        for source in sources:
            if self.rest == "refuse" and source.rest:
                more = f" and {len(source.rest) - 1} more" * (len(source.rest) > 1)
                raise ConfigError(
                    f"{source.name}: expected changes of matrices alone, found others at {source.rest[0]}{more}; "
                    "keep them, or leave them out"
                )
            if self.rest == "leave":
                source.biases, source.whole = {}, {}
        way, rank = WAYS[self.how], self.rank
        if way.on == "effects" and rank is None:
            ranks = [source.rank for source in sources if source.matrices]
            known = [rank for rank in ranks if rank is not None]
            if len(known) < len(ranks) or not known:
                raise ConfigError("compose: expected a rank, found a delta that has none of its own; pass rank")
            rank = max(known)
        devices = {site: change.device for source in sources for site, change in source.matrices.items()}
        choices = {site: self._choice(site, device) for site, device in devices.items()}
        return mix(sources, weights, way, rank, choices, measured=measured)

    def _choice(self, site: str, device: torch.device) -> Choice:
        """The settings of the rule at one site; what is drawn there does not depend on the other sites."""
        generator = torch.Generator(device).manual_seed(zlib.crc32(f"{self.seed} {site}".encode()))
        return Choice(1.0 if self.density is None else self.density, self.sign, generator)


def compose(
    weights: Mapping[str, float] | Mapping[Path, float] | Iterable[str],
    how: How = "cat",
    *,
    model: nn.Module | None = None,
    out: str | Path | None = None,
    name: str = "composed",
    rank: int | None = None,
    density: float | None = None,
    sign: Sign = "total",
    seed: int = 0,
    rest: Rest = "keep",
) -> Composed:
    """Make one plain LoRA of several deltas: ``compose({"a": 0.7, "b": 0.3}, how="svd", model=model)``.

    With ``model`` the deltas are those that are attached to it, of any method that has a form as weights; the result
    is attached in their place, and they are turned off. Without it they are folders with LoRA files, whose base is not
    needed; the result is written to ``out``. Ranks, alphas and targets may differ. What changes beside matrices
    (biases, modules trained whole) is added up with the weights in every way. Weights are not scaled to a sum of one; a
    negative one takes a delta away, and ``{"c": 1, "b": 1, "a": -1}`` is the analogy c + (b − a).

    The result has one rank at all sites, so that PEFT and servers read it: sites of a lower rank are padded with zeros,
    which do not train.

    Args:
        weights: names (or folders) with the weight of each; names alone weigh 1.
        how: a way of :data:`deltatune.composition.ways.WAYS`: ``"cat"`` (default) and ``"svd"`` are the weighted sum
            of what the deltas do; see the module for the equations of all.
        model: the model that the deltas are attached to.
        out: the folder to write to; only, and always, without ``model``.
        name: how to call the result. Default: ``"composed"``.
        rank: the largest of the result, for ``svd`` and the ways that end in ``_svd``. Default: the largest of the
            deltas' ranks.
        density: the share of entries that TIES, DARE and pruning keep; they need it.
        sign: how TIES elects signs: by ``"total"`` (default) or by ``"frequency"``.
        seed: of DARE's draws. Default: 0.
        rest: whether to ``"keep"`` (default), ``"leave"`` out or ``"refuse"`` what changes beside matrices.

    Returns:
        What was made, with the error at each site.

    Raises:
        ConfigError: a setting is out of range, a delta has no ranks and no rank is given, or folders are no LoRA.
        AttachError: a name is unknown or taken.
        MergeError: a delta has no form as weights.
        FileFormatError: a folder holds no delta, or they were made on different bases.
    """
    recipe = Recipe(how, rank, density, sign, seed, rest)
    given = (
        weights
        if isinstance(weights, Mapping)
        else dict.fromkeys([weights] if isinstance(weights, str) else weights, 1.0)
    )
    shares = {str(each): float(weight) for each, weight in given.items()}
    if not shares or not all(map(math.isfinite, shares.values())):
        raise ConfigError(f"compose: expected deltas with finite weights, found {shares or 'none'}; change them")
    if (model is None) == (out is None):
        found = "neither" if model is None else "both"
        raise ConfigError(f"compose: expected a model or a folder to write to, found {found}; pass model or out")
    if model is None:
        assert out is not None
        return _in_folders(shares, recipe, Path(out), name)
    return _on_model(unwrap(model), shares, recipe, name)


def _on_model(model: nn.Module, shares: dict[str, float], recipe: Recipe, name: str) -> Composed:
    check_name(model, name)
    deltas = [bank_of(model)[each] for each in shares]
    with bare(model):
        mixed = recipe.mix([read(delta) for delta in deltas], list(shares.values()))
        made = build(model, name, mixed)
    for delta in deltas:
        delta.disable()
    add(model, made.freeze())
    return Composed(recipe.how, shares, mixed.rank, mixed.losses, delta=made)


def _in_folders(shares: dict[str, float], recipe: Recipe, out: Path, name: str) -> Composed:
    opened = [folders.open_folder(folder) for folder in shares]
    folders.check_alike(opened)
    mixed = recipe.mix([each.source for each in opened], list(shares.values()))
    folders.check_shares(opened, list(shares.values()))
    folders.write(out, name, mixed, opened, {"Made of": _made_of(shares), "Composed by": f"`{recipe.how}`"})
    return Composed(recipe.how, shares, mixed.rank, mixed.losses, folder=out)


def _made_of(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{weight:g} × {Path(folder).name}" for folder, weight in shares.items())
