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
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from deltatune.attachment.delta import Delta
from deltatune.attachment.part import Params, Part, master_dtype
from deltatune.attachment.sites import Site
from deltatune.attachment.stacks import (
    is_rotary,
    stacks_of,
    takes_positions,
)
from deltatune.errors import ConfigError, SiteError
from deltatune.io.peft_layout import BESIDE, as_modules, from_keys, task_type, to_keys
from deltatune.methods.base import Method, check
from deltatune.methods.inserted_prompt import InsertedPrompt, SeesPrompt
from deltatune.methods.shared_prompt import SharedPrompt, shared_rows
from deltatune.methods.soft_prompt import PromptPart, SoftPrompt, embedding
from deltatune.methods.texts import token_ids

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["PromptTuning"]

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
        if decoder is not None and (rows := shared_rows(model, decoder)):
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
        return self.prompt(self.start(embedding(stack.module), device))

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


def _owners(delta: Delta) -> list[tuple[str, PromptPart]]:
    return [(site, part) for site, part in delta.items() if isinstance(part, PromptPart)]
