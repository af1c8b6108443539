r"""Prefix tuning: learned keys and values in front of every layer's own (Li & Liang 2021,
https://arxiv.org/abs/2101.00190, section 4; P-tuning v2, Liu et al. 2022, https://arxiv.org/abs/2110.07602).

.. math:: \mathrm{head} = \mathrm{Attn}\big(x W_q,\ [P_K;\ x W_k],\ [P_V;\ x W_v]\big)

with P_K and P_V ``[p, kv_heads * head_dim]`` for each attention module. With ``hidden`` they are made by an MLP during
training, [P_K, P_V] = tanh(E W₁ + b₁) W₂ + b₂, where E ``[p, d]`` and W₁ serve all layers and W₂ is each layer's own,
as in the first paper; without it they are the parameters themselves, as in P-tuning v2. The MLP folds away: what is
saved is P_K and P_V, and a loaded prefix trains on without it.

The rows start normal with deviation ``std``, or as the keys and values that the base computes for ``init_ids``; so the
start is not the identity. Rows that start from text stand where it would, right before the text: with rotary positions
before position 0, so that the text keeps its own; with learned positions from 0, and the text is counted on from p.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltatune.attachment.attention import attention_sites, heads_of, width_in
from deltatune.attachment.bank import find_bank
from deltatune.attachment.calls import Call
from deltatune.attachment.delta import Delta
from deltatune.attachment.lifecycle import disabled
from deltatune.attachment.part import Params, Part, Rows, master_dtype
from deltatune.attachment.sites import Site
from deltatune.attachment.stacks import (
    evaluating,
    is_rotary,
    is_rotated_as_usual,
    listening,
    record,
    rotated,
    shift_positions,
    stacks_of,
    takes_positions,
)
from deltatune.errors import ConfigError, SiteError
from deltatune.io.peft_layout import BESIDE, as_modules, from_keys, task_type, to_keys
from deltatune.methods.base import Method, check
from deltatune.methods.texts import token_ids

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PrefixTuning"]


@dataclass(frozen=True)
class PrefixTuning(Method):
    """Prefix tuning. See the module's docstring for the equation and :class:`Method` for the common settings.

    Args:
        tokens: rows in front of each layer, p. Default: 20.
        hidden: the width of the MLP that makes them in training. Default: ``None``, no MLP.
        dropout: probability of dropping entries of the rows, in training only. Default: 0.
        std: deviation of the normal start. Default: 0.02.
        init_ids: token ids whose keys and values the rows start as; as many as ``tokens``. Not with ``hidden``.
            :meth:`from_text` makes them. Default: none.
        shift_positions: count the text from p in models with learned positions, as the papers' code and Hugging Face
            PEFT do. Default: true; false leaves all positions to the text.
        targets: not used: every attention module is a site. ``layers`` and ``exclude`` hold.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "prefix"

    tokens: int = 20
    hidden: int | None = None
    dropout: float = 0.0
    std: float = 0.02
    init_ids: tuple[int, ...] | None = None
    shift_positions: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(isinstance(self.tokens, int) and self.tokens >= 1, "prefix.tokens", "a whole number from 1", self.tokens)
        check(self.hidden is None or self.hidden >= 1, "prefix.hidden", "a width from 1, or none", self.hidden)
        check(0 <= self.dropout < 1, "prefix.dropout", "0 <= p < 1", self.dropout)
        check(not self.targets, "prefix.targets", "none, since every attention module is a site", self.targets)
        if self.init_ids is not None:
            object.__setattr__(self, "init_ids", tuple(self.init_ids))
            check(self.hidden is None, "prefix.init_ids", "no MLP beside it", self.hidden, "leave hidden out")
            check(len(self.init_ids) == self.tokens, "prefix.init_ids", f"{self.tokens} token ids", len(self.init_ids))

    @classmethod
    def from_text(cls, tokenizer: Any, text: str, tokens: int | None = None, **settings: Any) -> Self:
        """A prefix that starts as ``text``.

        Args:
            tokenizer: of the base.
            text: such as an instruction; repeated or cut to fill ``tokens``.
            tokens: rows in front of each layer, p. Default: as many as the text has tokens.
            **settings: the others.
        """
        ids = token_ids(tokenizer, text, tokens)
        return cls(tokens=len(ids), init_ids=ids, **settings)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        sites = attention_sites(model, self.layers, self.exclude)
        made: dict[str, Part] = {}
        trunk: nn.Module | None = None
        for site in sites:
            part = PrefixPart(self, site.module, trunk, device)
            trunk = trunk or part.trunk
            made[site.name] = part
        if self.init_ids is not None and not (device is not None and device.type == "meta"):
            _start_from_text(model, sites, made, self.init_ids)
        if self.shift_positions:
            made |= {site.name: PositionShift(self.tokens) for site in _shifted(model)}
        return made

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        parts = _in_peft_order(model, delta)
        heads = {part.heads for part in parts.values()}
        one_stack = not getattr(model.config, "is_encoder_decoder", False) and task_type(model) is not None
        shifts = self.shift_positions or not _shifted(model)
        rotated = all(is_rotated_as_usual(model, model.get_submodule(site)) for site in parts)
        if len(heads) != 1 or len(parts) != len(attention_sites(model)) or not (one_stack and shifts and rotated):
            raise ConfigError(
                "prefix: Hugging Face PEFT reads one whole stack with equal heads and shifted positions; "
                "read it with deltatune"
            )
        number, width = heads.pop()
        return {
            "peft_type": "PREFIX_TUNING",
            "task_type": task_type(model),
            "num_virtual_tokens": self.tokens,
            "token_dim": number * width,
            "num_attention_heads": number,
            "num_layers": len(parts),
            "num_transformer_submodules": 1,
            "encoder_hidden_size": None,
            "prefix_projection": False,
        }

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> PrefixTuning | None:
        if config.get("peft_type") != "PREFIX_TUNING":
            return None
        modules = as_modules(config.get("modules_to_save"))
        return cls(tokens=config["num_virtual_tokens"], train_also=modules)

    def pack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        """PEFT's one tensor ``[p, layers * 2 * kv_width]`` in place of a pair for each layer, where PEFT has a form."""
        try:
            self.peft_config(model, delta)
        except ConfigError:
            return to_keys(tensors, BESIDE)
        rows = []
        for site, part in _in_peft_order(model, delta).items():
            keys = part.heads.split(tensors.pop(f"{site}.keys"))
            rows += [part.heads.join(rotated(model, model.get_submodule(site), keys, self.tokens))]
            rows += [tensors.pop(f"{site}.values")]
        return {"prompt_embeddings": torch.cat(rows, dim=1), **to_keys(tensors, BESIDE)}

    def unpack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        tensors = from_keys(tensors, BESIDE)
        if "prompt_embeddings" not in tensors:
            return tensors
        parts = _in_peft_order(model, delta)
        packed = tensors.pop("prompt_embeddings")
        width = 2 * sum(part.heads.number * part.heads.width for part in parts.values())
        if packed.dim() != 2 or packed.shape[1] != width:
            return {"prompt_embeddings": packed, **tensors}
        pieces = packed.split(
            [part.heads.number * part.heads.width for part in parts.values() for _ in range(2)], dim=1
        )
        for index, (site, part) in enumerate(parts.items()):
            keys = part.heads.split(pieces[2 * index])
            tensors[f"{site}.keys"] = part.heads.join(rotated(model, model.get_submodule(site), keys, -self.tokens))
            tensors[f"{site}.values"] = pieces[2 * index + 1]
        return tensors


class PrefixPart(Part):
    """The rows of one attention module. The first of a delta owns what an MLP shares; the others only use it."""

    acts_on_output = False
    acts_in_attention = True

    def __init__(
        self, method: PrefixTuning, attention: nn.Module, trunk: nn.Module | None, device: torch.device | None
    ) -> None:
        super().__init__()
        weight = next(attention.parameters())
        options: dict[str, Any] = {"dtype": master_dtype(weight.dtype), "device": device or weight.device}
        self.heads = heads_of(attention)
        self.tokens, self.dropout = method.tokens, method.dropout
        width = self.heads.number * self.heads.width
        self.keys: nn.Parameter | None = None
        self.values: nn.Parameter | None = None
        self.trunk: nn.Module | None = None
        self.top: nn.Linear | None = None
        self.shared: tuple[nn.Module, ...] = ()
        if method.hidden is None:
            self.keys = nn.Parameter(torch.randn(self.tokens, width, **options) * method.std)
            self.values = nn.Parameter(torch.randn(self.tokens, width, **options) * method.std)
        else:
            self.top = nn.Linear(method.hidden, 2 * width, **options)
            if trunk is None:
                trunk = self.trunk = _Trunk(self.tokens, width_in(attention), method.hidden, options)
            self.shared = (trunk,)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """P_K and P_V, each ``[p, kv_heads * head_dim]``."""
        if self.top is None:
            assert self.keys is not None
            assert self.values is not None
            return self.keys, self.values
        keys, values = self.top(self.shared[0]().to(self.top.weight.device)).chunk(2, dim=1)
        return keys, values

    def rows(self, taken: tuple[int, ...] | None) -> list[Rows]:
        keys, values = (F.dropout(rows, self.dropout, self.training) for rows in self.matrices())
        return [Rows(self.heads.split(keys), self.heads.split(values), taken)]

    def shapes(self) -> dict[str, torch.Size]:
        size = torch.Size([self.tokens, self.heads.number * self.heads.width])
        return {"keys": size, "values": size}

    def export(self, module: nn.Module) -> Params:
        keys, values = self.matrices()
        return {"keys": keys.detach(), "values": values.detach()}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        if self.top is not None:  # what made the rows is done with
            like, trains = self.top.weight, self.top.weight.requires_grad
            self.keys, self.values = (
                nn.Parameter(
                    torch.empty_like(tensors[name], dtype=like.dtype, device=like.device), requires_grad=trains
                )
                for name in ("keys", "values")
            )
            self.trunk, self.top, self.shared = None, None, ()
        assert self.keys is not None
        assert self.values is not None
        self.keys.copy_(tensors["keys"])
        self.values.copy_(tensors["values"])


class _Trunk(nn.Module):
    """What the MLP of all layers shares: tanh(E W₁ + b₁)."""

    def __init__(self, tokens: int, width: int, hidden: int, options: dict[str, Any]) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(tokens, width, **options))
        self.bottom = nn.Linear(width, hidden, **options)

    def forward(self) -> Tensor:
        return torch.tanh(self.bottom(self.embedding))


class PositionShift(Part):
    """Counts the text from p, for rows that stand at the positions before it."""

    acts_on_output = False
    changes_call = True

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    @property
    def positions(self) -> int:
        return self.by

    def call(self, call: Call) -> None:
        shift_positions(call, self.by)


def _shifted(model: nn.Module) -> list[Site]:
    """The stacks whose text has to be counted on from the rows: those that can be told positions, and learn them."""
    try:
        stacks = [site for site in stacks_of(model) if site is not None and takes_positions(site.module)]
    except SiteError:  # it takes no tokens
        return []
    return [] if is_rotary(model) else stacks


def _in_peft_order(model: nn.Module, delta: Delta) -> dict[str, PrefixPart]:
    return {site: part for site, part in delta.items() if isinstance(part, PrefixPart)}


@torch.no_grad()
def _start_from_text(model: nn.Module, sites: list[Site], made: Mapping[str, Part], ids: tuple[int, ...]) -> None:
    """Start the rows as what the base itself computes for some tokens, right before position 0."""
    encoder, decoder = stacks_of(model)
    stack = decoder if encoder is None else encoder
    if stack is None or not all(site.name.startswith(stack.name) for site in sites):
        raise SiteError("prefix.init_ids: expected attention in one stack, found several; start at random instead")
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    positions = torch.arange(-len(ids), 0, device=tokens.device)[None]
    inputs: dict[str, Any] = {"position_ids": positions} if is_rotary(model) else {}
    modules = [site.module for site in sites]
    alone = contextlib.nullcontext() if find_bank(model) is None else disabled(model)
    with evaluating(model), alone, listening(model, modules), record(modules) as noted:
        stack.module(input_ids=tokens, **inputs)
    for site in (site for site in sites if site.module in noted):
        part = made[site.name]
        assert isinstance(part, PrefixPart)
        keys, values = noted[site.module]
        part.restore(site.module, {"keys": part.heads.join(keys[0]), "values": part.heads.join(values[0])})
