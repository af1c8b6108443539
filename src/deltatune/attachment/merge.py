"""Merge deltas into the base's weights, and take them out again to the exact byte.

A merge computes each touched parameter in float32 at least, checks it for NaN, writes it, and runs the site on a
probe to see that the merged module answers as the module with its deltas did. What was there is kept, so any failure,
and :func:`unmerge`, puts back the same bytes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import Bank, SiteHook, bank_of, unwrap
from deltatune.attachment.layers import dense, features, is_adaptable, is_channels_first, is_quantized
from deltatune.attachment.part import Params, Part
from deltatune.attachment.routing import EVERYTHING, NOTHING, apply_to_rows
from deltatune.attachment.sites import base_modules
from deltatune.errors import MergeError

__all__ = ["Merge", "merge", "unmerge"]

PROBE_ROWS = 4
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""The largest difference on a probe that rounding explains, relative to the largest output."""


@dataclass
class Merge:
    """A merge that is in place: what it did, and what undoes it."""

    weights: dict[str, float]
    """Each merged delta and its weight."""
    sites: list[str] = field(default_factory=list)
    """The modules whose parameters changed."""
    untied: list[str] = field(default_factory=list)
    """Parameters that shared memory with others and got their own."""
    added: list[str] = field(default_factory=list)
    """Parameters that the base does not have, such as biases of its linear layers."""
    dequantized: list[str] = field(default_factory=list)
    """Packed modules that a dense one stands in for."""
    largest_difference: float = 0.0
    """Of a merged site's output from the unmerged one on the probe, relative to the largest output."""
    undo: list[partial[None]] = field(default_factory=list, repr=False)
    """Partial calls, not closures: in a copy of the model they act on the copy."""


def merge(
    model: nn.Module,
    names: str | Iterable[str] | Mapping[str, float] | None = None,
    *,
    dequantize: bool = False,
    probe: Mapping[str, Any] | None = None,
) -> Merge:
    """Put deltas into the base's weights, where they cost nothing at inference.

    Args:
        model: a model with deltas.
        names: which: one, several, or each with a weight; they are applied in the order of attachment.
            Default: all that are on. Deltas left out stay attached and act on top, which has to be the same.
        dequantize: replace packed (4-bit, 8-bit) modules by dense ones, which takes their full memory. Default:
            refuse, since packing the merged weight again would round the delta away.
        probe: inputs of the model on which its first output is compared before and after, besides the probe of each
            site, which is always made. Needs weights of 1. Default: none.

    Returns:
        What was done. :func:`unmerge` takes it back.

    Raises:
        MergeError: a delta has no form as weights, a weight became NaN, outputs differ by more than rounding, one that
            stays attached would act otherwise, deltas are merged already, or a module is packed. The model is as it
            was.
    """
    model = unwrap(model)
    bank = bank_of(model)
    if bank.merged is not None:
        raise MergeError(f"{', '.join(bank.merged.weights)} merged already; call dt.unmerge(model) first")
    done = Merge(_weights(bank, names))
    if not done.weights:
        raise MergeError("merge: expected a delta that is on, found none; enable one or name it")
    if bank.routing != EVERYTHING:
        raise MergeError("merge: expected to be outside of dt.routed and dt.disabled, found inside one; leave it first")
    names_of = _names_by_parameter(model)
    before = _output(model, bank, done, probe)
    try:
        with bank.under(NOTHING):
            for site in [name for name, _ in base_modules(model) if name in bank.hooks]:
                _merge_site(model, bank, site, done, names_of, dequantize=dequantize)
            for name in done.weights:
                bank[name].merged = True
            bank.merged = done
        _say_untied(model, done)
        if before is not None:
            done.largest_difference = max(
                done.largest_difference, _compare("the model on the probe", before, _output(model, bank, done, probe))
            )
    except BaseException:
        _take_back(bank, done)
        raise
    _say_added(model, done)
    return done


def unmerge(model: nn.Module) -> None:
    """Take merged deltas out again: the base's parameters are bit for bit what they were, and the deltas act as before.

    Raises:
        MergeError: nothing is merged.
    """
    bank = bank_of(model)
    if bank.merged is None:
        raise MergeError("unmerge: expected merged deltas, found none; nothing to do")
    _take_back(bank, bank.merged)


def _weights(bank: Bank, names: str | Iterable[str] | Mapping[str, float] | None) -> dict[str, float]:
    if names is None:
        names = [delta.name for delta in bank if delta.enabled]
    wanted = names if isinstance(names, Mapping) else dict.fromkeys([names] if isinstance(names, str) else names, 1.0)
    for name in wanted:
        bank[name]
    return {delta.name: float(wanted[delta.name]) for delta in bank if delta.name in wanted}


def _names_by_parameter(model: nn.Module) -> dict[int, list[str]]:
    """Every name of each parameter: more than one where weights are tied."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


@torch.no_grad()
def _merge_site(
    model: nn.Module, bank: Bank, site: str, done: Merge, names_of: Mapping[int, list[str]], *, dequantize: bool
) -> None:
    module, hook = model.get_submodule(site), bank.hooks[site]
    parts = {name: hook.parts[name] for name in done.weights if name in hook.parts}
    if not parts:
        return
    if is_quantized(module):
        if not dequantize:
            raise MergeError(
                f"{site}: its weight is packed ({type(module).__name__}), and packing the merged weight again would "
                "lose the delta; keep it attached, or pass dequantize=True to put a dense module in its place"
            )
        module = _dense_in_place(model, hook, site, done)
    x = _probe(module)
    stay = {name: part for name, part in hook.parts.items() if name not in parts and bank[name].acts}
    acting = {name: part for name, part in hook.parts.items() if name in parts or name in stay}
    with _evaluating(module, *acting.values()):
        reference = None if x is None else _with_parts(module, x, parts, done.weights)
        weights = dict.fromkeys(stay, 1.0) | done.weights
        on_top = None if x is None or not stay else _with_parts(module, x, acting, weights)
        old = dict(module.named_parameters())
        for name, value in _folded(site, module, old, parts, done.weights).items():
            if name not in old:
                _write(site, module, name, value, done)
                done.added.append(f"{site}.{name}")
            elif not torch.equal(value, old[name]):
                _write(site, module, name, value, done)
                if len(names_of.get(id(old[name]), ())) > 1:
                    done.untied.append(f"{site}.{name}")
        if x is not None and reference is not None:
            done.largest_difference = max(done.largest_difference, _compare(site, reference, module.forward(x)))
        if x is not None and on_top is not None:
            _check_on_top(site, on_top, _with_parts(module, x, stay, weights), stay, parts)
    done.sites.append(site)


def _folded(
    site: str, module: nn.Module, old: Mapping[str, Tensor], parts: Mapping[str, Part], weights: Mapping[str, float]
) -> Params:
    """The site's parameters with the parts in them, in their own precision and checked to be finite.

    What changes the input acts before the site and all that is added to it, and the last that does so acts next to
    it: these are folded after the others, from the last to the first.
    """
    values: Params = {n: p.detach().to(torch.promote_types(p.dtype, torch.float32)) for n, p in old.items()}
    outputs = [name for name, part in parts.items() if not part.changes_input]
    inputs = [name for name, part in parts.items() if part.changes_input]
    for name in outputs + inputs[::-1]:
        values = parts[name].fold(module, values, weights[name])
    dtype = next(iter(old.values())).dtype
    values = {name: value.to(old[name].dtype if name in old else dtype) for name, value in values.items()}
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise MergeError(
                f"{site}.{name}: expected finite numbers after the merge, found NaN or infinity; check the delta"
            )
    return values


def _write(site: str, module: nn.Module, name: str, value: Tensor, done: Merge) -> None:
    """Put a new parameter in the old one's place and keep the old one: whatever it is tied to is not touched.

    The place may be empty, as that of a linear layer's bias is when it has none.
    """
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if not hasattr(owner, leaf):
        raise MergeError(
            f"{site}: expected a place for a parameter {name!r}, found none in {type(owner).__name__}; keep the delta "
            "attached"
        )
    former: nn.Parameter | None = getattr(owner, leaf)
    done.undo.append(partial(setattr, owner, leaf, former))
    setattr(owner, leaf, nn.Parameter(value, requires_grad=former is not None and former.requires_grad))


def _dense_in_place(model: nn.Module, hook: SiteHook, site: str, done: Merge) -> nn.Linear:
    """Put a dense linear where a packed one is."""
    packed = model.get_submodule(site)
    width, height = features(packed)
    bias = packed.get_parameter("bias") if getattr(packed, "bias", None) is not None else None
    weight = dense(packed)
    dtype = bias.dtype if bias is not None else getattr(model, "dtype", weight.dtype)
    linear = nn.Linear(width, height, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    if bias is not None:
        linear.bias = bias
    done.undo.append(partial(_put, model, hook, site, packed))
    _put(model, hook, site, linear.train(packed.training))
    done.dequantized.append(site)
    return linear


def _put(model: nn.Module, hook: SiteHook, site: str, module: nn.Module) -> None:
    model.set_submodule(site, module)
    hook.move_to(module)


def _take_back(bank: Bank, done: Merge) -> None:
    with bank.under(NOTHING):  # what changes the base's parameters in place takes its own out first
        while done.undo:
            done.undo.pop()()
        for name in done.weights:
            bank[name].merged = False
        bank.merged = None


def _say_untied(model: nn.Module, done: Merge) -> None:
    """Weights that were tied differ now: say so, and keep ``save_pretrained`` from tying them again.

    That switch is one for all, so what is still tied gets memory of its own too; a checkpoint would lack it otherwise.
    """
    if not done.untied:
        return
    warnings.warn(
        f"merge: {', '.join(done.untied)} shared memory with other parameters and now has its own", stacklevel=3
    )
    config: Any = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False):
        done.undo.append(partial(setattr, config, "tie_word_embeddings", True))
        config.tie_word_embeddings = False
        for first, *others in _names_by_parameter(model).values():
            for name in others:
                site, _, leaf = name.rpartition(".")
                _write(site, model.get_submodule(site), leaf, model.get_parameter(first).detach().clone(), done)


def _say_added(model: nn.Module, done: Merge) -> None:
    """A checkpoint of the merged model holds parameters that its class does not ask for: say so."""
    if done.added:
        warnings.warn(
            f"merge: {done.added[0]}{f' and {len(done.added) - 1} more' * (len(done.added) > 1)} are new parameters; "
            f"{type(model).__name__}.from_pretrained will not read them back, so save the delta, not the merged model",
            stacklevel=3,
        )


def _probe(module: nn.Module) -> Tensor | None:
    """A small input for a module whose input is known by its kind; the global random stream is left alone."""
    generator = torch.Generator().manual_seed(0)
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if isinstance(module, nn.Embedding):
        return torch.randint(module.num_embeddings, (PROBE_ROWS,), generator=generator).to(weight.device)
    width = features(module)[0] if is_adaptable(module) else weight.shape[-1]
    if weight.dim() > 2 or is_channels_first(module):
        return None
    return torch.randn(PROBE_ROWS, width, generator=generator).to(weight)


@contextlib.contextmanager
def _evaluating(*modules: nn.Module) -> Iterator[None]:
    """Modules in evaluation mode, so that a probe sees no dropout."""
    former = [(sub, sub.training) for module in modules for sub in module.modules()]
    try:
        for sub, _ in former:
            sub.training = False
        yield
    finally:
        for sub, training in former:
            sub.training = training


def _with_parts(module: nn.Module, x: Tensor, parts: Mapping[str, Part], weights: Mapping[str, float]) -> Tensor | None:
    """What the site answers with its parts; ``None`` where their effect is not in proportion to their weights."""
    for part in parts.values():
        x = part.before(x)
    answer: Tensor = module.forward(x)
    out = answer
    for name, part in parts.items():
        if part.is_in_place or (weights[name] != 1.0 and not part.is_linear):
            return None
        out = torch.lerp(out, apply_to_rows(part, x, out, None, answer), weights[name])
    return out


def _output(model: nn.Module, bank: Bank, done: Merge, probe: Mapping[str, Any] | None) -> Tensor | None:
    """The model's first output on the probe, with the deltas to merge on."""
    if probe is None:
        return None
    if any(weight != 1.0 for weight in done.weights.values()):
        raise MergeError(
            f"probe: expected weights of 1, found {done.weights}; leave the probe out, sites are checked anyway"
        )
    named = [bank[name] for name in done.weights]
    enabled, training = [delta.enabled for delta in named], model.training
    for delta in named:
        delta.enabled = True
    try:
        with torch.no_grad():
            output = model.eval()(**probe)
    finally:
        model.train(training)
        for delta, was in zip(named, enabled, strict=True):
            delta.enabled = was
    first = (
        output if isinstance(output, Tensor) else next(iter(output.values() if hasattr(output, "values") else output))
    )
    return first


def _check_on_top(
    site: str, expected: Tensor, found: Tensor | None, stay: Iterable[str], merged: Iterable[str]
) -> None:
    """See that what stays attached does to the merged site what it did before.

    Additions to the output commute. A change of the input, or of what an earlier delta made of the output, does not.
    """
    if not _difference(expected, found) <= TOLERANCE[expected.dtype]:  # NaN fails too
        raise MergeError(
            f"{site}: {', '.join(stay)} would act otherwise on top of the merged weights than beside "
            f"{', '.join(merged)}; merge all of them, or none"
        )


def _difference(expected: Tensor, found: Tensor | None) -> float:
    """The largest difference relative to the largest expected value."""
    assert found is not None
    return float((expected - found).abs().max()) / float(expected.abs().max().clamp_min(1e-6))


def _compare(what: str, expected: Tensor, found: Tensor | None) -> float:
    """The difference, refused if rounding does not explain it."""
    difference, allowed = _difference(expected, found), TOLERANCE[expected.dtype]
    if not difference <= allowed:  # NaN fails too
        raise MergeError(
            f"{what}: expected the merged output within {allowed:.0e} of the unmerged, found {difference:.1e}; "
            "keep the delta attached, or merge in a higher precision"
        )
    return difference
