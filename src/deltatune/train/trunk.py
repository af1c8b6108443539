"""The trunk of a model: the layers below all deltas, with what runs before them, a fixed function of the text.

It is found on a run of the real stack over a few tokens. That tells in which order modules run, which of them draw
random numbers, and whether the layers above need anything of the trunk beside the hidden states of its last layer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from deltatune.attachment.bank import Bank, bank_of, bare, unwrap
from deltatune.attachment.calls import Stamp
from deltatune.attachment.part import HOOK
from deltatune.attachment.shards import architecture, is_sharded, whole
from deltatune.attachment.stacks import stacks_of
from deltatune.errors import ConfigError, SiteError
from deltatune.train.trace import Trace, in_mode, run_few, states_in

__all__ = ["Trunk", "find_trunk", "passing_over", "replaced", "running"]

FORMAT = 1
"""Raised when what is cached, or its key, changes its meaning."""

VOLATILE = ("_name_or_path", "transformers_version", "use_cache", "architectures")
"""What a config says that changes no hidden state."""

LEAVE = "or leave cache_trunk out"


@dataclass
class Trunk:
    """What runs before the first layer with a delta."""

    model: nn.Module
    stack: nn.Module
    """What is called with tokens."""
    layers: list[nn.Module]
    """The layers of the trunk, in the order in which they run."""
    modules: dict[str, nn.Module]
    """Whatever is called before the first layer with a delta, these layers included, with all that is inside."""
    around: dict[str, nn.Module]
    """What is not over by then: the stack, and whatever else the layers are in."""
    shape: tuple[int, torch.dtype]
    """The width of the hidden states, and their precision without autocast."""
    answers: list[int | None]
    """For each layer, how many things it answers in a tuple; ``None`` for a tensor alone."""

    def __post_init__(self) -> None:
        self.digest = self._digest()
        """Of all that its answers follow from, beside the text."""
        self._stamp, self._deltas = self._weights(), self._attached()

    def refuse_changes(self) -> None:
        """Look whether it still is below all deltas, and a function of the same weights.

        Raises:
            ConfigError: it is not.
        """
        if (attached := self._attached()) != self._deltas:
            _refuse_deltas(bank_of(self.model), self)
            self._deltas = attached
        if (stamp := self._weights()) != self._stamp:
            _refuse_absent(self.model)
            if self._digest() != self.digest:
                raise ConfigError(
                    f"cache_trunk: expected the weights below layer {len(self.layers)} as they were, found them "
                    f"changed; begin a run anew, {LEAVE}"
                )
            self._stamp = stamp

    @property
    def is_watched(self) -> bool:
        """Whether someone takes notes in its attention just now, for which it has to run."""
        return any(HOOK in vars(module) for module in self.modules.values())

    def parameters(self) -> dict[str, nn.Parameter]:
        """Its parameters by name."""
        return {
            f"{at}.{name}".removeprefix("."): parameter
            for at, module in (self.around | self.modules).items()
            for name, parameter in module.named_parameters(recurse=False)
        }

    def in_form(self, number: int, states: Tensor) -> Any:
        """Hidden states as the layer of that number answers them."""
        length = self.answers[number]
        return states if length is None else (states, *[None] * (length - 1))

    def _attached(self) -> object:
        return tuple((delta.name, delta.sites, delta.merged) for delta in bank_of(self.model))

    def _weights(self) -> Stamp:
        return Stamp(self.parameters().values())

    def _digest(self) -> str:
        """Every byte of every weight: a sample would not see what training a part of it has changed.

        The whole model's identity would not do in its place. It covers what lies above too, which a delta may hold its
        own values in, and tells nothing of the config, without which weights are no function.
        """
        config: Any = getattr(self.stack, "config", None)
        settings = {key: value for key, value in config.to_dict().items() if key not in VOLATILE} if config else {}
        about = [FORMAT, architecture(self.stack), len(self.layers), *map(str, self.shape), settings]
        digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16)
        with bare(self.model):
            for name, module in (self.around | self.modules).items():
                for key, tensor in _tensors(module).items():
                    digest.update(f"\n{name}.{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                    digest.update(whole(tensor.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's own tensors. The state dict of a leaf has those of a quantised weight too, and as they are saved."""
    if any(True for _ in module.children()):
        own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    else:
        own = {key: value for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    return own | dict(module.named_buffers(recurse=False))


def find_trunk(model: nn.Module) -> Trunk:
    """The trunk of a model with deltas.

    Args:
        model: the model, on the device on which it will run.

    Raises:
        AttachError: nothing is attached.
        ConfigError: it has no trunk, since a delta acts in its first layer or before it; or one whose answers are no
            fixed function of the text; or one from which the layers above take more than hidden states.
    """
    model = unwrap(model)
    bank = bank_of(model)
    _refuse_absent(model)
    stack = _stack(model)
    with in_mode(model):
        trace = Trace.of(model, stack)
    trunk = _trunk(trace, _first_changed(bank, model, trace.layers))
    _refuse_deltas(bank, trunk)
    _refuse_unfixed(trunk, trace)
    _refuse_more_than_states(trunk)
    return trunk


def _refuse_absent(model: nn.Module) -> None:
    """Refuse weights that are not all here: in other processes, or in a file until a layer runs."""
    if is_sharded(model) or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ConfigError(
            f"cache_trunk: expected whole weights in each process, found them sharded; replicate the model, {LEAVE}"
        )
    if any(tensor.is_meta for tensor in model.parameters()):
        raise ConfigError(
            f"cache_trunk: expected weights in memory, found some that are loaded when needed; load them, {LEAVE}"
        )


def _stack(model: nn.Module) -> nn.Module:
    try:
        stacks = stacks_of(model)
    except SiteError as error:
        raise ConfigError(f"cache_trunk: {error}; leave cache_trunk out") from None
    if stacks.encoder is not None and stacks.decoder is not None:
        raise ConfigError(
            f"cache_trunk: expected one stack of layers, found the encoder and the decoder of {type(model).__name__}; "
            "leave cache_trunk out"
        )
    site = stacks.decoder or stacks.encoder
    assert site is not None
    return site.module


def _trunk(trace: Trace, first: int) -> Trunk:
    """What runs before the layer of that number."""
    modules = {name: module for module, name in trace.names.items()}
    below, moment = trace.layers[:first], trace.moments[trace.layers[first]][0]
    answers = [trace.answers[name] for name in below]
    states = states_in(answers[-1])
    if states is None or states.dim() != 3 or any(states_in(answer) is None for answer in answers):
        raise ConfigError(
            f"cache_trunk: expected layers that answer hidden states, found {type(answers[-1]).__name__} of "
            f"{below[-1]}; leave cache_trunk out"
        )
    return Trunk(
        trace.model,
        trace.stack,
        [modules[name] for name in below],
        {n: m for name in trace.over[: moment.over] for n, m in modules[name].named_modules(prefix=name)},
        {name: modules[name] for name in moment.open},
        (states.shape[-1], states.dtype),
        [len(answer) if isinstance(answer, tuple) else None for answer in answers],
    )


# What a trunk must not have.


def _first_changed(bank: Bank, model: nn.Module, layers: list[str]) -> int:
    """The number of the first layer with a delta; of the last one if all deltas are behind the layers.

    Raises:
        ConfigError: it is the first of all, which leaves no trunk.
    """
    for number, layer in enumerate(layers[:-1]):
        found = next(_touching(bank, [layer], (), model.get_submodule(layer).parameters()), None)
        if found is not None and not number:
            raise _no_trunk(*found, "in the first layer")
        if found is not None:
            return number
    return len(layers) - 1


def _refuse_deltas(bank: Bank, trunk: Trunk) -> None:
    found = next(_touching(bank, trunk.modules, trunk.around, trunk.parameters().values()), None)
    if found is not None:
        raise _no_trunk(*found, f"before layer {len(trunk.layers)} runs")


def _no_trunk(delta: str, site: str, where: str) -> ConfigError:
    return ConfigError(
        f"cache_trunk: expected deltas in the last layers alone, found {delta!r} at {site or 'the whole model'}, which "
        f"acts {where}; attach it with layers='last:n', {LEAVE}"
    )


def _touching(
    bank: Bank, modules: Collection[str], around: Collection[str], parameters: Iterable[Tensor]
) -> Iterator[tuple[str, str]]:
    """The deltas, with a site, that act in ``modules`` or on ``around`` as wholes, or change one of ``parameters``.

    A parameter may be tied to one of a module that runs later. A merged delta is in the weights, and no longer acts.
    """
    own = {id(parameter) for parameter in parameters}
    for delta in bank:
        for site, part in delta.items() if not delta.merged else ():
            module = delta.model.get_submodule(site)
            is_inside = site in around or any(f"{site}.".startswith(f"{name}.") for name in modules)
            if is_inside or any(id(module.get_parameter(name)) in own for name in part.changes):
                yield delta.name, site


def _refuse_unfixed(trunk: Trunk, trace: Trace) -> None:
    """Refuse what answers otherwise each time, or to other texts of the batch, or is trained."""
    if trace.moments[trace.layers[len(trunk.layers)]][0].drew:
        where = next((name for name in trace.drawing if name in trunk.modules), next(iter(trunk.around)))
        raise ConfigError(
            f"cache_trunk: expected layers below the deltas that answer alike each time, found random numbers drawn in "
            f"{where or 'the model'} while training; set the model's dropout to 0, {LEAVE}"
        )
    for name, parameter in trunk.parameters().items():
        if parameter.requires_grad:
            raise ConfigError(
                f"cache_trunk: expected frozen weights below the deltas, found {name} in training; freeze it, {LEAVE}"
            )
    for name, module in trunk.modules.items():
        if "dynamic" in (kind := str(getattr(module, "rope_type", ""))) or "longrope" in kind:
            raise ConfigError(
                f"cache_trunk: expected positions that are a text's own, found {name} of type {kind}, which changes "
                "with the longest text of a batch; leave cache_trunk out"
            )


def _refuse_more_than_states(trunk: Trunk) -> None:
    """Try whether the layers above answer alike when they get nothing of the trunk but its last hidden states."""
    noted: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        states = states_in(output)
        assert states is not None
        noted.append(states)

    with in_mode(trunk.model, False):
        hook = trunk.layers[-1].register_forward_hook(note)
        try:
            expected = run_few(trunk.model, trunk.stack)[0]
        finally:
            hook.remove()
        with replaced(trunk.layers, passing_over(trunk, noted[0])):
            found = run_few(trunk.model, trunk.stack)[0]
    near = 1e-3 if expected.dtype.itemsize >= 4 else 5e-2
    if found.shape != expected.shape or not torch.allclose(found.float(), expected.float(), rtol=near, atol=near):
        raise ConfigError(
            f"cache_trunk: expected layers that hand on hidden states and nothing else, found others in "
            f"{type(trunk.stack).__name__}; leave cache_trunk out"
        )


# In place of the layers.


@contextlib.contextmanager
def replaced(layers: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Within this context ``forwards`` answer in place of the layers' own, and none of them is checkpointed."""
    names = ("forward", "gradient_checkpointing")
    former = [{name: vars(layer)[name] for name in names if name in vars(layer)} for layer in layers]
    try:
        for layer, forward in zip(layers, forwards, strict=True):
            vars(layer).update(zip(names, (forward, False), strict=True))
        yield
    finally:
        for layer, own in zip(layers, former, strict=True):
            for name in names:
                vars(layer).pop(name, None)
            vars(layer).update(own)


def passing_over(trunk: Trunk, states: Tensor) -> list[Callable[..., Any]]:
    """Forwards that hand on what they are given, the last of them ``states`` in its place."""
    last = len(trunk.layers) - 1

    def answer(number: int, *args: Any, **kwargs: Any) -> Any:
        given = givenstates_in(args, kwargs)
        if number < last:
            return trunk.in_form(number, given)
        own = states.to(given.device).view(given.shape)
        # Checkpoints and the like may count on an input with a gradient, as they then have of the trunk itself.
        return trunk.in_form(number, own.requires_grad_(torch.is_grad_enabled() and given.requires_grad))

    return [partial(answer, number) for number in range(last + 1)]


def running(trunk: Trunk, note: Callable[[Tensor], None]) -> list[Callable[..., Any]]:
    """Forwards that run the layers without gradients; ``note`` gets the hidden states of the last."""

    def answer(own: Callable[..., Any], is_last: bool, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            output = own(*args, **kwargs)
        states = states_in(output)
        assert states is not None
        if is_last:
            note(states)
        states.requires_grad_(torch.is_grad_enabled() and givenstates_in(args, kwargs).requires_grad)
        return output

    return [partial(answer, layer.forward, layer is trunk.layers[-1]) for layer in trunk.layers]


def givenstates_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden states that a layer is called with: its first argument."""
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    return first
