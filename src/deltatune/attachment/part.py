"""What one delta does at one site: the interface a method implements."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deltatune.errors import MergeError

if TYPE_CHECKING:
    from deltatune.attachment.calls import Call

__all__ = ["HOOK", "Part", "Replacement", "Rows", "bare_copy", "master_dtype"]

Params = dict[str, Tensor]

HOOK = "_deltatune_attention"
"""Where an attention module keeps what answers for the rows in front of its keys and values."""


class Rows(NamedTuple):
    """Keys and values to put in front of an attention module's own, and the rows of the batch that see them."""

    keys: Tensor
    """``[kv_heads, p, head_dim]``, as the attention function gets them: after any rotation."""
    values: Tensor
    """``[kv_heads, p, head_dim]``."""
    taken: tuple[int, ...] | None
    """``None`` for all."""


def master_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision trainable tensors are kept in on a base of ``dtype``: float32 at least.

    Half-precision steps of an optimiser vanish in rounding, and a delta is small: its master copy is float32.
    It is cast *down* to the activations where it is used, never the activations up.
    """
    is_wide = dtype.is_floating_point and dtype.itemsize > 1  # eight bits are a way to store weights, not to compute
    return torch.promote_types(dtype, torch.float32) if is_wide else torch.float32


class Part(nn.Module):
    """What one delta does at one site.

    A method makes one part for each site. The part holds the trainable tensors of that site and answers four
    questions: how the site's output changes (:meth:`forward`), what goes into a file (:meth:`shapes`,
    :meth:`export`, :meth:`restore`) and what the site's own parameters become when merged (:meth:`fold`).

    ``files`` maps the name a tensor has in a file to the attribute that holds it; a part whose file differs from its
    attributes overrides the three file methods instead.
    """

    files: Mapping[str, str] = {}

    is_linear = False
    """Whether a share of the part has that share of its effect: true for what is added to the output."""

    answers_anew = False
    """Whether :meth:`forward` does not add to what it is given but computes another answer from the base's own.

    It is then given the base's answer, and what it changes of that is added to what other deltas have made of it."""

    acts_on_output = True
    """Whether :meth:`forward` does something."""

    answers_alone = False
    """Whether :meth:`forward` answers in place of the site, so that nothing else may go into the site than ``x``."""

    changes_input = False
    """Whether :meth:`before` does something."""

    acts_in_attention = False
    """Whether the site is an attention module and :meth:`rows` puts keys and values in front of its own."""

    changes_call = False
    """Whether the site is a whole stack of layers, and :meth:`call` and :meth:`answer` act on its calls."""

    runs_stack = False
    """Whether :meth:`call` runs the stack itself; those that do never see one another's runs."""

    is_in_place = False
    """Whether the part works by changing the site's own parameters, through :meth:`install` and :meth:`uninstall`."""

    changes: tuple[str, ...] = ()
    """The names of the site's own parameters that an in-place part changes."""

    is_stale = False
    """Whether an in-place part's values are no longer those that it put in."""

    def before(self, x: Tensor) -> Tensor:
        """The input that the site, and :meth:`forward`, should see instead of ``x``."""
        return x

    def call(self, call: Call) -> None:
        """Change a stack's call before it runs, on the rows of ``call`` that this part acts on."""

    def answer(self, call: Call, output: Any) -> Any:
        """Change the output of the call that :meth:`call` saw."""
        return output

    def rows(self, taken: tuple[int, ...] | None) -> list[Rows]:
        """What stands in front of the attention module's keys and values for the rows ``taken`` (``None``: all)."""
        raise NotImplementedError

    def install(self, module: nn.Module, alone: bool) -> None:
        """Put the part's values into the site's parameters; called when the delta starts to act.

        Called again, without :meth:`uninstall`, when only the values have changed and no other part is in the way.

        Args:
            module: the site.
            alone: whether no other delta changes these parameters now. If false, their memory (``parameter.data``)
                must be exchanged, not written into, so that other parts keep what they found.
        """

    def uninstall(self, module: nn.Module) -> None:
        """Put back the exact bytes that were there; called when the delta stops acting."""

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        """What the site computes with in place of its parameter ``name`` while this part, put in, is trained.

        Args:
            name: one of :attr:`changes`.
            parameter: the site's, or the stand-in of a delta below.

        Returns:
            The same memory, but differentiable in the part's tensors, and in ``parameter`` if that has a gradient.
        """
        raise NotImplementedError

    def decays(self, name: str) -> bool:
        """Whether weight decay acts on a parameter of the part, by its name here. Default: on matrices."""
        return self.get_parameter(name).dim() > 1

    def expect(self, shapes: Mapping[str, torch.Size]) -> None:
        """Take the sizes that only a file knows, before :meth:`shapes` is compared with it.

        Args:
            shapes: what the file holds for this part. Nothing in it is checked yet.
        """

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """The site's output with this part.

        Args:
            x: the site's input, ``[batch, ..., in]`` (token ids ``[batch, ...]`` at an embedding).
            out: the output so far, ``[batch, ..., out]``: the base's, changed by the deltas attached earlier.
        """
        raise NotImplementedError

    def shapes(self) -> dict[str, torch.Size]:
        """The tensors of the file and their shapes; never reads a value, so it works on the meta device."""
        return {name: getattr(self, attribute).shape for name, attribute in self.files.items()}

    def export(self, module: nn.Module) -> Params:
        """The tensors of the file. ``module`` is the site."""
        return {name: getattr(self, attribute).detach() for name, attribute in self.files.items()}

    def restore(self, module: nn.Module, tensors: Params) -> None:
        """Take the tensors of a file, already checked against :meth:`shapes`."""
        for name, attribute in self.files.items():
            with torch.no_grad():
                getattr(self, attribute).copy_(tensors[name])

    @property
    def positions(self) -> int:
        """How many positions this part takes before the text. Default: none."""
        return 0

    def release(self) -> None:
        """Let go of tensors of the base, which are about to be spread over processes; from then on ask the site."""

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        """The site's parameters with ``weight`` times this part in them.

        Args:
            module: the site, for the orientation of its weight.
            params: parameter name to value, at least float32, in the module's own orientation; not to be changed.
            weight: the share of this part, 1.0 for all of it.

        Raises:
            MergeError: this part is no function of the parameters, so it can not be merged.
        """
        raise MergeError("it acts on activations and has no form as weights; keep it attached")


class Replacement(Part):
    """A trained copy of a whole module, such as a task head: the copy answers in place of the site.

    Source: the ``modules_to_save`` of Hugging Face PEFT.
    """

    answers_alone = True

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        super().__init__()
        self.copy = bare_copy(module).to(device)
        for parameter in self.copy.parameters():
            parameter.data = parameter.data.to(master_dtype(parameter.dtype))
            parameter.requires_grad_(True)

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        dtype = next(self.copy.parameters()).dtype
        return self.copy(x.to(dtype) if x.is_floating_point() else x).to(out.dtype)  # type: ignore[no-any-return]

    def shapes(self) -> dict[str, torch.Size]:
        return {name: tensor.shape for name, tensor in self.copy.state_dict().items()}

    def export(self, module: nn.Module) -> Params:
        return dict(self.copy.state_dict())

    def restore(self, module: nn.Module, tensors: Params) -> None:
        with torch.no_grad():
            for name, buffer in module.named_buffers():  # some are in no state dict
                self.copy.get_buffer(name).copy_(buffer)
        self.copy.load_state_dict(tensors)

    def fold(self, module: nn.Module, params: Params, weight: float) -> Params:
        trained = {name: parameter.detach() for name, parameter in self.copy.named_parameters()}
        if weight == 1.0:  # exact, without the rounding of W + (W' - W)
            return {name: trained[name].to(value.dtype) for name, value in params.items()}
        return {name: torch.lerp(value, trained[name].to(value.dtype), weight) for name, value in params.items()}


def bare_copy(module: nn.Module, kept: Mapping[int, Any] | None = None) -> nn.Module:
    """A deep copy without hooks: a hook would bring the deltas, and the whole model with them, into the copy.

    Args:
        module: what to copy.
        kept: what to put in place of a copy of some objects, by their ``id``. Default: nothing.
    """
    memo = dict(kept or {})
    for sub in module.modules():
        hooks = [value for name, value in vars(sub).items() if "hooks" in name and isinstance(value, dict)]
        memo |= {id(each): type(each)() for each in hooks}
        if HOOK in vars(sub):
            memo[id(vars(sub)[HOOK])] = ...
    duplicate = copy.deepcopy(module, memo)
    for sub in duplicate.modules():
        vars(sub).pop(HOOK, None)
    return duplicate
