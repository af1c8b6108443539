r"""Prompt tuning: learned vectors in front of the input (Lester et al. 2021,
https://arxiv.org/abs/2104.08691, section 2).

.. math:: y = \mathrm{model}([P;\ E(x)])

with P ``[p, d]`` trained and saved, nothing else. P starts uniform in ±0.5, as words of the vocabulary, or as given
texts or class labels; it is not the identity at the start.

How it runs depends on the stack, never what it computes:

- A causal stack never lets P see the text, so P's keys and values are the same for every row. The stack runs once over
  P for a batch, and each layer's attention gets what that run left there in front of its own keys and values. A row of
  text costs no token more and nothing of the call changes (labels, masks, caches, positions). Without gradients the run
  is kept: until a weight, a delta or the precision changes, and for a cache that has begun with it as long as that one
  lasts. A sliding window does not slide past P.
- An encoder lets P and text see each other, so P is put into each row, in front of the text; so it is in a decoder
  beside an encoder, and in a causal stack where tokens meet elsewhere than in attention that rows can be put in front
  of. A stack that pools its first token (BERT) gets P behind the text in memory, with the positions it has in front, so
  that what is pooled is still the text's. The stack's output is without P, except that a decoder attends to its
  encoder's.

Several prompts on one row: a causal stack runs over each by itself, and the text sees them all; in an encoder, the one
attached later stands before the others and they see one another.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from deltatune.attachment.attention import attention_sites
from deltatune.attachment.calls import Call, Stamp
from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Params, Part, Rows, master_dtype
from deltatune.attachment.routing import Routing
from deltatune.attachment.sites import Site
from deltatune.attachment.stacks import (
    counts_distances,
    first_position,
    handed_to_checkpoints,
    is_rotary,
    positions_of,
    record,
    shift_positions,
    stacks_of,
    takes_positions,
    widen_mask,
    without_checkpoints,
)
from deltatune.errors import AttachError, ConfigError, SiteError
from deltatune.io.peft_layout import BESIDE, as_modules, from_keys, task_type, to_keys
from deltatune.methods.base import Method, check
from deltatune.methods.texts import token_ids

if TYPE_CHECKING:
    from typing_extensions import Self

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
        init_ids: token ids to start as, at most p of them; what is left starts as ``init`` says. Several in a tuple
            stand for their mean. :meth:`from_text` and :meth:`from_labels` make them. Default: none.
        side: of an encoder-decoder: ``"encoder"`` (default), ``"decoder"`` or ``"both"``.
        read_prompt: in an encoder alone, let a head that reads the first token of its output read P's first vector, as
            Hugging Face PEFT does in sequence classification; its files for that set it. Default: false.
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
    read_prompt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(isinstance(self.tokens, int) and self.tokens >= 1, f"{self.key}.tokens", "a number from 1", self.tokens)
        check(self.init in get_args(Init), f"{self.key}.init", f"one of {get_args(Init)}", self.init)
        check(self.side in get_args(Side), f"{self.key}.side", f"one of {get_args(Side)}", self.side)
        check(self.common >= 1, f"{self.key}.common", "a number from 1", self.common)
        check(not self.targets, f"{self.key}.targets", "none, since the site is the stack", self.targets)
        check(self.layers is None, f"{self.key}.layers", "none, since the site is the stack", self.layers)
        check(not self.exclude, f"{self.key}.exclude", "none, since the site is the stack", self.exclude)
        if self.init_ids is not None:
            ids = tuple(tuple(i) if isinstance(i, (list, tuple)) else i for i in self.init_ids)
            object.__setattr__(self, "init_ids", ids)
            check(0 < len(ids) <= self.tokens, f"{self.key}.init_ids", f"1 to {self.tokens} of them", len(ids))
            check(() not in ids, f"{self.key}.init_ids", "token ids", "an empty group of them")

    @classmethod
    def from_text(cls, tokenizer: Any, text: str, tokens: int | None = None, **settings: Any) -> Self:
        """A prompt that starts as ``text``.

        Args:
            tokenizer: of the base.
            text: such as an instruction; repeated or cut to fill ``tokens``.
            tokens: virtual tokens, p. Default: as many as the text has.
            **settings: the others.
        """
        ids = token_ids(tokenizer, text, tokens)
        return cls(tokens=len(ids), init_ids=ids, **settings)

    @classmethod
    def from_labels(cls, tokenizer: Any, labels: Iterable[str], tokens: int = 20, **settings: Any) -> Self:
        """A prompt whose first vectors start as the class labels, each the mean of its tokens; the rest as ``init``.

        Args:
            tokenizer: of the base.
            labels: such as ``["positive", "negative"]``, at most ``tokens``.
            tokens: virtual tokens, p.
            **settings: the others.
        """
        return cls(tokens=tokens, init_ids=tuple(token_ids(tokenizer, label) for label in labels), **settings)

    def parts(self, model: nn.Module, device: torch.device | None) -> dict[str, Part]:
        encoder, decoder = stacks_of(model)
        if encoder is not None and decoder is not None:
            return self._beside_decoder(encoder, decoder, device)
        if decoder is not None and (rows := _shared_rows(model, decoder)):
            inside = {name.removeprefix(decoder.name + "."): part for name, part in rows.items()}
            prompt = self._made(decoder, device)
            return {decoder.name: SharedPrompt(prompt, inside, learned=not is_rotary(model)), **rows}
        stack = encoder or decoder
        assert stack is not None
        generates = getattr(model, "can_generate", lambda: False)()
        if generates and "past_key_values" not in inspect.signature(stack.module.forward).parameters:
            raise SiteError(
                f"{self.key}: expected a cache of keys and values in {type(stack.module).__name__}, found none; "
                "choose a method that acts on weights"
            )
        behind = takes_positions(stack.module) and getattr(stack.module, "pooler", None) is not None
        reads = self.read_prompt and encoder is not None
        return {stack.name: InsertedPrompt(self._made(stack, device), stays=reads, behind=behind and not reads)}

    def _beside_decoder(self, encoder: Site, decoder: Site, device: torch.device | None) -> dict[str, Part]:
        made: dict[str, Part] = {}
        sees = 0 if self.side == "decoder" else self.tokens
        if sees:
            made[encoder.name] = InsertedPrompt(self._made(encoder, device), stays=True)
        if self.side == "encoder":
            made[decoder.name] = SeesPrompt(sees)
        else:
            made[decoder.name] = InsertedPrompt(self._made(decoder, device), sees=sees)
        return made

    def _made(self, stack: Site, device: torch.device | None) -> SoftPrompt:
        return self.prompt(self.start(_embedding(stack.module), device))

    def prompt(self, start: Tensor) -> SoftPrompt:
        """What makes P in training, from what it starts as, ``[p, d]``."""
        return SoftPrompt(start)

    def start(self, table: nn.Embedding, device: torch.device | None = None) -> Tensor:
        """What P starts as, ``[p, d]``."""
        options: dict[str, Any] = {"dtype": master_dtype(table.weight.dtype), "device": device or table.weight.device}
        if table.weight.is_meta or (device is not None and device.type == "meta"):
            return torch.empty(self.tokens, table.embedding_dim, **options)
        return self._start(table).detach().to(options["device"], options["dtype"])

    @torch.no_grad()
    def _start(self, table: nn.Embedding) -> Tensor:
        size, device = table.num_embeddings, table.weight.device

        def vectors(ids: Any) -> Tensor:  # without hooks; some tables scale what they hold
            return table.forward(torch.as_tensor(ids, device=device))

        rows = []
        for group in self.init_ids or ():
            ids = group if isinstance(group, tuple) else (group,)
            check(all(0 <= i < size for i in ids), f"{self.key}.init_ids", f"ids from 0 to {size - 1}", group)
            rows.append(vectors(ids).mean(dim=0))
        left = self.tokens - len(rows)
        if self.init == "uniform":
            rows += list(torch.rand(left, table.embedding_dim, device=device) - 0.5)
        else:
            rows += list(vectors(torch.randint(min(self.common, size), (left,), device=device)))
        return torch.stack([row.to(rows[0]) for row in rows])

    def peft_config(self, model: nn.Module, delta: Delta) -> dict[str, Any]:
        if self.side != "encoder":
            raise ConfigError(f"{self.key}.side: Hugging Face PEFT runs none but the encoder's; read it with deltatune")
        config: Any = model.config
        task, encoder = task_type(model), stacks_of(model).encoder
        if task is None:
            raise ConfigError(f"{self.key}: Hugging Face PEFT has no task like that of {type(model).__name__}")
        if task == "SEQ_CLS" and encoder is not None and not self.read_prompt:
            raise ConfigError(
                f"{self.key}.read_prompt: Hugging Face PEFT's heads read the prompt; read it with deltatune"
            )
        return {
            "peft_type": self.peft_type,
            "task_type": task,
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
        modules = as_modules(config.get("modules_to_save"))
        classifies = config.get("task_type") == "SEQ_CLS"
        return cls(tokens=config["num_virtual_tokens"], train_also=modules, read_prompt=classifies)

    def pack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        """PEFT has the prompts one below the other under ``prompt_embeddings``."""
        prompts = [tensors.pop(f"{site}.prompt") for site, _ in _owners(delta)]
        return {"prompt_embeddings": torch.cat(prompts), **to_keys(tensors, BESIDE)}

    def unpack(self, model: nn.Module, delta: Delta, tensors: Params) -> Params:
        tensors = from_keys(tensors, BESIDE)
        packed, owners = tensors.get("prompt_embeddings"), _owners(delta)
        if packed is None or len(packed) not in (self.tokens * len(owners), 2 * self.tokens):
            return tensors
        # For an encoder-decoder PEFT saves a second half, for the decoder, that it never runs.
        del tensors["prompt_embeddings"]
        return tensors | {f"{site}.prompt": p for (site, _), p in zip(owners, packed.split(self.tokens), strict=False)}


def _shared_rows(model: nn.Module, stack: Site) -> dict[str, PromptRows]:
    """A part for each attention module, if tokens meet nowhere else; in a hybrid they do, so it gets none."""
    try:
        sites = [
            site for site in attention_sites(model) if site.name.startswith(f"{stack.name}." if stack.name else "")
        ]
    except SiteError:
        return {}
    layers = getattr(getattr(stack.module, "config", None), "num_hidden_layers", len(sites))
    convolves = any(isinstance(module, nn.Conv1d) for module in stack.module.modules())
    tells = is_rotary(model) or takes_positions(stack.module)
    return {site.name: PromptRows() for site in sites} if len(sites) == layers and tells and not convolves else {}


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

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Params) -> None:
        vectors = self.prompt.vectors
        if type(self.prompt) is not SoftPrompt:  # what made P is done with
            self.prompt = SoftPrompt(torch.empty_like(vectors)).requires_grad_(vectors.requires_grad)
        self.prompt.vectors.copy_(tensors["prompt"])


Run = list[tuple[Tensor, Tensor]]
"""The keys and values of P at each attention module of a stack, each ``[kv_heads, p, head_dim]``."""


class SharedPrompt(PromptPart):
    """Runs a causal stack once over P and hands each layer what that left in its attention."""

    runs_stack = True

    def __init__(self, prompt: SoftPrompt, layers: Mapping[str, PromptRows], *, learned: bool) -> None:
        super().__init__(prompt)
        self.layers = tuple(layers.items())
        """The attention modules by their names within the stack."""
        self.learned = learned
        """Whether positions are learned vectors, so that the text has to be counted on from P."""
        self.kept = Kept()

    def call(self, call: Call) -> None:
        runs, known = [], self._known(call)
        for taken, routing in call.groups:
            if routing not in known:
                known[routing] = self._run(call, routing)
            runs.append((taken, known[routing]))
        for index, (_, layer) in enumerate(self.layers):
            layer.front = [Rows(*run[index], taken) for taken, run in runs]
        call.closing.callback(self._forget)
        if torch.is_grad_enabled() and call.module.training:
            call.closing.enter_context(handed_to_checkpoints(call.module, dict(self.layers)))
        if self.learned:
            shift_positions(call, self.prompt.tokens)

    def _known(self, call: Call) -> dict[Routing, Run]:
        """The runs that still hold, by their routing; training keeps none."""
        if torch.is_grad_enabled() or call.module.training:
            self.kept.forget()
            return {}
        return self.kept.runs(call, self.prompt())

    def _forget(self) -> None:
        for _, layer in self.layers:
            layer.front = []

    def _run(self, call: Call, routing: Routing) -> Run:
        stack = call.module
        vectors = self.prompt().to(_embedding(stack).weight.dtype)[None]
        first = first_position(stack) if self.learned else -self.prompt.tokens
        positions = torch.arange(first, first + self.prompt.tokens, device=vectors.device)[None]
        modules = [stack.get_submodule(name) for name, _ in self.layers]
        with call.bank.under(routing), without_checkpoints(stack), record(modules) as noted:
            stack(inputs_embeds=vectors, position_ids=positions, use_cache=False)
        return [(keys[0], values[0]) for keys, values in (noted[module] for module in modules)]


class Kept:
    """The runs over P that were made without gradients. A copy of the model begins without them."""

    def __init__(self) -> None:
        self.forget()
        self.begun: WeakKeyDictionary[Any, dict[Routing, Run]] = WeakKeyDictionary()
        """The runs that a cache has begun with: its text has seen these, so it goes on to."""

    def forget(self) -> None:
        """Keep none for calls to come."""
        self.stamp: Stamp | None = None
        self.vectors: Tensor | None = None
        self.latest: dict[Routing, Run] = {}

    def runs(self, call: Call, vectors: Tensor) -> dict[Routing, Run]:
        """The runs for a call with P as ``vectors``, to be used and added to."""
        cache = call.inputs.get("past_key_values")
        if call.past and cache in self.begun:
            return self.begun[cache]
        stamp = call.stamp()
        same = self.vectors is not None and torch.equal(self.vectors, vectors)  # P may be changed past its stamp
        if not same or self.stamp != stamp:
            self.stamp, self.vectors, self.latest = stamp, vectors.detach().clone(), {}
        if cache is not None:
            self.begun[cache] = self.latest
        return self.latest

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


class PromptRows(Part):
    """What the run over P left at one attention module; there while the stack's call lasts."""

    acts_on_output = False
    acts_in_attention = True

    def __init__(self) -> None:
        super().__init__()
        self.front: list[Rows] = []

    def rows(self, taken: tuple[int, ...] | None) -> list[Rows]:
        if not self.front:
            raise AttachError("prompt: expected a call of the whole stack, found its attention called alone")
        return self.front


class SeesPrompt(Part):
    """Lets a decoder attend to the prompt that its encoder's output begins with."""

    acts_on_output = False
    changes_call = True

    def __init__(self, sees: int) -> None:
        super().__init__()
        self.sees = sees
        """How many vectors of an encoder's prompt this decoder attends to."""

    def call(self, call: Call) -> None:
        _see_prompt(call, self.sees)


class InsertedPrompt(PromptPart):
    """Puts P into each row of a stack's input, and takes it out of the output."""

    def __init__(self, prompt: SoftPrompt, *, stays: bool = False, sees: int = 0, behind: bool = False) -> None:
        super().__init__(prompt)
        self.stays = stays
        """Whether the output keeps P, for what reads it to see P too."""
        self.sees = sees
        """How many vectors of an encoder's prompt this decoder attends to."""
        self.front = not behind
        """Whether P stands before the text in memory too, not by its positions alone."""

    def call(self, call: Call) -> None:
        p, inputs, text = self.prompt.tokens, call.inputs, call.tokens.shape[1]
        begins, seen = call.past == 0, call.seen(p)
        cached = 0 if begins else call.past - sum(part.prompt.tokens for part in _inserted(call.parts.values()))
        changed = {"attention_mask": widen_mask(inputs.get("attention_mask"), seen, cached + text, front=self.front)}
        positions = self._positions(call, begins, cached)
        if positions is not None:
            changed["position_ids"] = positions
        if begins:  # later P is in the cache
            ids, embeds = inputs.pop("input_ids", None), inputs.get("inputs_embeds")
            embeds = _embedding(call.module)(ids) if embeds is None else embeds
            changed["inputs_embeds"] = self._beside(self.prompt().to(embeds.dtype).expand(len(embeds), -1, -1), embeds)
            if (kinds := inputs.get("token_type_ids")) is not None:
                changed["token_type_ids"] = self._beside(kinds.new_zeros(len(kinds), p), kinds)
        inputs |= self._closed_up(call, changed, begins)
        if self.sees:
            _see_prompt(call, self.sees)
        config: Any = call.module.config
        as_tuple = inputs.get("return_dict", config.return_dict) is False
        if as_tuple:
            inputs["return_dict"] = True
        where = slice(p, None) if self.front else slice(0, text)
        call.notes[call.name] = _Text(where if begins else slice(None), where, as_tuple)

    def answer(self, call: Call, output: Any) -> Any:
        text: _Text = call.notes[call.name]
        if not self.stays:
            output.last_hidden_state = output.last_hidden_state[:, text.queries]
            if output.get("hidden_states") is not None:
                output.hidden_states = tuple(states[:, text.queries] for states in output.hidden_states)
            if output.get("attentions") is not None:
                output.attentions = tuple(w[:, :, text.queries, text.keys] for w in output.attentions)
            if output.get("cross_attentions") is not None:
                output.cross_attentions = tuple(w[:, :, text.queries] for w in output.cross_attentions)
        return output.to_tuple() if text.as_tuple else output

    def _beside(self, own: Tensor, texts: Tensor) -> Tensor:
        return torch.cat([own, texts] if self.front else [texts, own], dim=1)

    def _positions(self, call: Call, begins: bool, cached: int) -> Tensor | None:
        """P's, from the first, and the text's after them where P is seen; ``None`` if the stack counts by itself."""
        p, stack = self.prompt.tokens, call.module
        if not takes_positions(stack):
            if call.taken is not None and not counts_distances(stack):
                raise AttachError(
                    f"routed: {type(stack).__name__} counts its positions by itself, so {call.name!r} acts on every "
                    "row or none; split the batch"
                )
            return None
        counted = positions_of(call)
        if call.inputs.get("position_ids") is None:
            counted = counted - call.past + cached  # a cache counts prompts too
        text = counted + p * call.seen(1).long()
        own = torch.arange(p, device=text.device) + first_position(stack)
        return self._beside(own.expand(call.batch, -1), text) if begins else text

    def _closed_up(self, call: Call, tensors: dict[str, Tensor], begins: bool) -> dict[str, Tensor]:
        """The same with the vectors that a row sees right before its text, past those of prompts that it does not."""
        earlier = sum(part.prompt.tokens for part in _inserted(call.parts[name] for name in call.notes))
        if not self.front or not earlier:
            return tensors
        order = _unseen_first(tensors["attention_mask"], earlier + self.prompt.tokens)
        if not begins:
            return tensors | {"attention_mask": tensors["attention_mask"].gather(1, order)}
        rows = torch.arange(len(order), device=order.device)[:, None]
        return {name: tensor[rows, order] for name, tensor in tensors.items()}


def _inserted(parts: Iterable[Part]) -> list[InsertedPrompt]:
    return [part for part in parts if isinstance(part, InsertedPrompt)]


def _unseen_first(mask: Tensor, prompts: int) -> Tensor:
    """For each row the order of its columns in which, of the first ``prompts``, those it does not see come first."""
    order = mask[:, :prompts].long().argsort(dim=1, stable=True)
    rest = torch.arange(prompts, mask.shape[1], device=mask.device).expand(len(mask), -1)
    return torch.cat([order, rest], dim=1)


class _Text(NamedTuple):
    """Where the text stands in what a stack computed."""

    queries: slice
    keys: slice
    as_tuple: bool
    """Whether the caller wants plain tuples."""


def _see_prompt(call: Call, p: int) -> None:
    """Widen a decoder's mask over its encoder's output, whose rows begin with ``p`` vectors of a prompt."""
    states = call.inputs.get("encoder_hidden_states")
    if states is not None:
        prompts = sum(part.sees for part in call.parts.values() if isinstance(part, (SeesPrompt, InsertedPrompt)))
        text = states.shape[1] - prompts
        mask = widen_mask(call.inputs.get("encoder_attention_mask"), call.seen(p), text, front=True)
        call.inputs["encoder_attention_mask"] = mask.gather(1, _unseen_first(mask, mask.shape[1] - text))


def _embedding(stack: nn.Module) -> nn.Embedding:
    return stack.get_input_embeddings()  # type: ignore[operator,no-any-return]
