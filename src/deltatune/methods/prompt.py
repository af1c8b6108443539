r"""Prompt tuning: learned vectors in front of the input (Lester et al. 2021,
https://arxiv.org/abs/2104.08691, section 2).

.. math:: y = \mathrm{model}([P;\ E(x)])

with P ``[p, d]`` trained and saved, nothing else. P starts uniform in ±0.5, as words of the vocabulary, or as given
texts or class labels; it is not the identity at the start.

How it runs depends on the stack, never what it computes:

- A causal stack never lets P see the text, so P's keys and values are the same for every row. The stack runs once over
  P for a batch, and each layer's attention gets what that run left there in front of its own keys and values. A row of
  text costs no token more, nothing of the call changes (labels, masks, caches, positions), and outside training the run
  is kept until a weight changes.
- An encoder lets P and text see each other, so P is put into each row. Its positions are 0 to p - 1 and the text
  follows, but in memory it stands behind the text, so that what a head reads at the first token is still that token.
  With relative positions (T5) it stands in front; so it does in a decoder beside an encoder. The stack's output is
  without P, except that a decoder attends to its encoder's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from deltatune.attachment.attention import attention_sites
from deltatune.attachment.calls import Call
from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Params, Part, Rows, master_dtype
from deltatune.attachment.routing import Routing
from deltatune.attachment.stacks import (
    is_rotary,
    positions_of,
    record,
    shift_positions,
    stacks_of,
    takes_positions,
    widen_mask,
    without_checkpoints,
)
from deltatune.errors import ConfigError
from deltatune.io.peft_layout import task_type
from deltatune.methods.base import Method, check

__all__ = ["PromptTuning", "SoftPrompt"]

Init = Literal["uniform", "vocabulary"]
Side = Literal["encoder", "decoder", "both"]


@dataclass(frozen=True)
class PromptTuning(Method):
    """Prompt tuning. See the module's docstring for the equation and :class:`Method` for the common settings.

    Args:
        tokens: virtual tokens, p. Default: 20 (the paper: 100).
        init: ``"vocabulary"`` (default), each a word among the first ``common``, or ``"uniform"`` in ±0.5.
        common: from how many of the vocabulary's first entries words are drawn; tokenizers number frequent ones first.
            Default: 5,000.
        init_ids: token ids of a text, or of each class label, to start as: a number stands for itself, several in a
            tuple for their mean, as the paper does with labels of several tokens. Repeated to fill p.
        side: of an encoder-decoder: ``"encoder"`` (default), ``"decoder"`` or ``"both"``.
        targets: not used, nor ``layers`` and ``exclude``: the site is the stack.

    Raises:
        ConfigError: a setting is out of range.
    """

    key: ClassVar[str] = "prompt"
    peft_type: ClassVar[str] = "PROMPT_TUNING"

    tokens: int = 20
    init: Init = "vocabulary"
    common: int = 5000
    init_ids: tuple[int | tuple[int, ...], ...] | None = None
    side: Side = "encoder"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(isinstance(self.tokens, int) and self.tokens >= 1, f"{self.key}.tokens", "a number from 1", self.tokens)
        check(self.init in get_args(Init), f"{self.key}.init", f"one of {get_args(Init)}", self.init)
        check(self.side in get_args(Side), f"{self.key}.side", f"one of {get_args(Side)}", self.side)
        check(self.common >= 1, f"{self.key}.common", "a number from 1", self.common)
        check(not self.targets, f"{self.key}.targets", "none, since the site is the stack", self.targets)
        if self.init_ids is not None:
            check(len(self.init_ids) > 0, f"{self.key}.init_ids", "at least one token id", self.init_ids)
            ids = tuple(tuple(i) if isinstance(i, (list, tuple)) else i for i in self.init_ids)
            object.__setattr__(self, "init_ids", ids)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        encoder, decoder = stacks_of(model)
        if encoder is not None and decoder is not None:
            return self._beside_decoder(model, device)
        if encoder is not None:
            return {encoder.name: InsertedPrompt(self.prompt(self.start(_embedding(encoder.module), device)))}
        assert decoder is not None
        rows = {site.name: PromptRows() for site in attention_sites(model)}
        inside = {name.removeprefix(decoder.name + "."): part for name, part in rows.items()}
        prompt = self.prompt(self.start(_embedding(decoder.module), device))
        return {decoder.name: SharedPrompt(prompt, inside, learned=not is_rotary(model)), **rows}

    def _beside_decoder(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        encoder, decoder = stacks_of(model)
        assert encoder is not None
        assert decoder is not None
        made: dict[str, Part] = {}
        sees = 0 if self.side == "decoder" else self.tokens
        if sees:
            made[encoder.name] = InsertedPrompt(self.prompt(self.start(_embedding(encoder.module), device)), stays=True)
        if self.side == "encoder":
            made[decoder.name] = SeesPrompt(sees)
        else:
            prompt = self.prompt(self.start(_embedding(decoder.module), device))
            made[decoder.name] = InsertedPrompt(prompt, sees=sees)
        return made

    def prompt(self, start: Tensor) -> SoftPrompt:
        """What makes P in training, from what it starts as, ``[p, d]``."""
        return SoftPrompt(start)

    def start(self, table: nn.Embedding, device: torch.device | None = None) -> Tensor:
        """What P starts as, ``[p, d]``."""
        options: dict[str, Any] = {"dtype": master_dtype(table.weight.dtype), "device": device or table.weight.device}
        if table.weight.is_meta or (device is not None and device.type == "meta"):
            return torch.empty(self.tokens, table.embedding_dim, **options)
        return self._start(table).detach().to(options["device"], options["dtype"])

    def _start(self, table: nn.Embedding) -> Tensor:
        if self.init_ids is not None:
            rows = [table.weight[list(i) if isinstance(i, tuple) else [i]].mean(dim=0) for i in self.init_ids]
            return torch.stack([rows[i % len(rows)] for i in range(self.tokens)])
        if self.init == "uniform":
            return torch.rand(self.tokens, table.embedding_dim, device=table.weight.device) - 0.5
        drawn = torch.randint(min(self.common, table.num_embeddings), (self.tokens,), device=table.weight.device)
        return table.weight[drawn]

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        if self.side != "encoder":
            raise ConfigError(f"{self.key}.side: Hugging Face PEFT runs none but the encoder's; read it with deltatune")
        config: Any = model.config
        return {
            "peft_type": self.peft_type,
            "task_type": task_type(model),
            "num_virtual_tokens": self.tokens,
            "token_dim": int(_owners(delta)[0][1].prompt.vectors.shape[1]),
            "num_transformer_submodules": 1,
            "num_attention_heads": getattr(config, "num_attention_heads", None),
            "num_layers": getattr(config, "num_hidden_layers", None),
        }

    @classmethod
    def from_peft_config(cls, config: Mapping[str, Any]) -> PromptTuning | None:
        if config.get("peft_type") != cls.peft_type:
            return None
        modules = tuple(config.get("modules_to_save") or ())
        return cls(tokens=config["num_virtual_tokens"], train_also=modules)

    def pack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        """PEFT has the prompts one below the other under ``prompt_embeddings``."""
        prompts = [tensors.pop(f"{site}.prompt") for site, _ in _owners(delta)]
        return {"prompt_embeddings": torch.cat(prompts), **super().pack(model, delta, tensors)}

    def unpack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        tensors = super().unpack(model, delta, tensors)
        packed, owners = tensors.get("prompt_embeddings"), _owners(delta)
        if packed is None or len(packed) not in (self.tokens * len(owners), 2 * self.tokens):
            return tensors
        # For an encoder-decoder PEFT saves a second half, for the decoder, that it never runs.
        del tensors["prompt_embeddings"]
        return tensors | {f"{site}.prompt": p for (site, _), p in zip(owners, packed.split(self.tokens), strict=False)}


def _owners(delta: Delta) -> list[tuple[str, PromptPart]]:
    return [(site, part) for site, part in delta.items() if isinstance(part, PromptPart)]


class SoftPrompt(nn.Module):
    """P itself. A method that makes P in another way, in training, gives a subclass."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(start)

    @property
    def tokens(self) -> int:
        return len(self.vectors)

    def forward(self) -> Tensor:
        """P, ``[p, d]``."""
        return self.vectors


class PromptPart(Part):
    """A part that owns a prompt."""

    acts_on_output = False
    changes_call = True

    def __init__(self, prompt: SoftPrompt) -> None:
        super().__init__()
        self.prompt = prompt

    def shapes(self) -> dict[str, torch.Size]:
        return {"prompt": self.prompt.vectors.shape}

    def export(self, module: nn.Module) -> Params:
        return {"prompt": self.prompt().detach()}

    def restore(self, module: nn.Module, tensors: Params) -> None:
        self.prompt = SoftPrompt(tensors["prompt"].to(self.prompt.vectors))


class SharedPrompt(PromptPart):
    """Runs a causal stack once over P and hands each layer what that left in its attention."""

    def __init__(self, prompt: SoftPrompt, layers: Mapping[str, PromptRows], *, learned: bool) -> None:
        super().__init__(prompt)
        self.layers = tuple(layers.items())
        """The attention modules by their names within the stack."""
        self.learned = learned
        """Whether positions are learned vectors, so that the text has to be counted on from P."""
        self.kept = _Fleeting()

    def call(self, call: Call) -> None:
        runs = [(taken, self._run(call, routing)) for taken, routing in call.groups]
        for index, (_, layer) in enumerate(self.layers):
            layer.front[:] = [Rows(*run[index], taken) for taken, run in runs]
        if self.learned:
            shift_positions(call, self.prompt.tokens)

    def _run(self, call: Call, routing: Routing) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values of P; without gradients they are kept until a weight changes."""
        if torch.is_grad_enabled() or call.module.training:
            return self._keys_values(call, routing)
        stamp = (routing, tuple((id(p), p._version) for p in (*call.module.parameters(), *call.trained())))
        if self.kept[:1] != [stamp]:
            self.kept[:] = [stamp, self._keys_values(call, routing)]
        return self.kept[1]  # type: ignore[no-any-return]

    def _keys_values(self, call: Call, routing: Routing) -> list[tuple[Tensor, Tensor]]:
        stack = call.module
        vectors = self.prompt().to(_embedding(stack).weight.dtype)[None]
        first = 0 if self.learned else -self.prompt.tokens
        positions = torch.arange(first, first + self.prompt.tokens, device=vectors.device)[None]
        modules = [stack.get_submodule(name) for name, _ in self.layers]
        with call.under(routing), without_checkpoints(stack), record(modules) as noted:
            stack(inputs_embeds=vectors, position_ids=positions, use_cache=False)
        return [(keys[0], values[0]) for keys, values in (noted[module] for module in modules)]


class PromptRows(Part):
    """What the run over P left at one attention module."""

    acts_on_output = False
    acts_in_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.front = _Fleeting()

    def rows(self, taken: tuple[int, ...] | None) -> list[Rows]:
        return self.front


class InsertedPrompt(PromptPart):
    """Puts P into each row of a stack's input, and takes it out of the output."""

    def __init__(self, prompt: SoftPrompt, *, stays: bool = False, sees: int = 0) -> None:
        super().__init__(prompt)
        self.stays = stays
        """Whether the output keeps P, for a decoder to attend to."""
        self.sees = sees
        """How many vectors of an encoder's prompt this decoder attends to."""

    def call(self, call: Call) -> None:
        p, inputs = self.prompt.tokens, call.inputs
        begins, front = call.past == 0, not takes_positions(call.module)
        text = call.tokens.shape[1]
        total = text if begins else text + call.past - p
        seen, positions = call.seen(p), positions_of(call)
        inputs["attention_mask"] = widen_mask(inputs.get("attention_mask"), seen, total, front=front)
        if self.sees:
            see_prompt(call, self.sees)
        if not begins:  # P is in the cache
            call.notes[call.name] = None
            return
        ids = inputs.pop("input_ids", None)
        embeds = _embedding(call.module)(ids) if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
        rows = self.prompt().to(embeds.dtype).expand(len(embeds), -1, -1)
        inputs["inputs_embeds"] = torch.cat([rows, embeds] if front else [embeds, rows], dim=1)
        if not front:
            own = torch.arange(p, device=embeds.device).expand(len(embeds), -1)
            inputs["position_ids"] = torch.cat([positions + p * seen[:, :1].long(), own], dim=1)
        if (kinds := inputs.get("token_type_ids")) is not None:
            inputs["token_type_ids"] = torch.cat([kinds, kinds.new_zeros(len(kinds), p)], dim=1)
        call.notes[call.name] = slice(p, None) if front else slice(0, text)

    def answer(self, call: Call, output: Any) -> Any:
        text = call.notes[call.name]
        if text is None or self.stays:
            return output
        output.last_hidden_state = output.last_hidden_state[:, text]
        if output.get("hidden_states") is not None:
            output.hidden_states = tuple(states[:, text] for states in output.hidden_states)
        return output


class SeesPrompt(Part):
    """Lets a decoder attend to the prompt that its encoder's output begins with."""

    acts_on_output = False
    changes_call = True

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens

    def call(self, call: Call) -> None:
        see_prompt(call, self.tokens)


def see_prompt(call: Call, p: int) -> None:
    """Widen a decoder's mask over its encoder's output, whose rows begin with ``p`` vectors of a prompt."""
    states, mask = call.inputs.get("encoder_hidden_states"), call.inputs.get("encoder_attention_mask")
    if states is not None and not (mask is None and call.taken is None):
        call.inputs["encoder_attention_mask"] = widen_mask(mask, call.seen(p), states.shape[1] - p, front=True)


class _Fleeting(list[Any]):
    """What lasts from a call to the next; a copy of the model begins without it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Fleeting:
        return type(self)()


def _embedding(stack: nn.Module) -> nn.Embedding:
    return stack.get_input_embeddings()  # type: ignore[operator,no-any-return]
