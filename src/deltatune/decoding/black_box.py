r"""Proxy-tuning of a model behind an API that shows only its likeliest next tokens (Liu et al. 2024, section 6).

.. math:: p(x) \propto \exp\left[\log p_{M}(x) + \alpha\,(s_{M^+}(x) - s_{M^-}(x))\right], \quad x \in \mathrm{top}_k

Log-probabilities serve as logits: they differ by a constant. Only tokens that were returned are reweighted; what was
not returned has no probability, unless it is asked for otherwise. https://arxiv.org/abs/2401.08565
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from deltatune.decoding.alpha import Alpha, alpha_at, check_alpha
from deltatune.decoding.endpoint import Endpoint, Turns
from deltatune.decoding.proxy import expert_sides, parts_of
from deltatune.decoding.sides import Inputs, run
from deltatune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from deltatune.io.bases import Base

__all__ = ["BlackBox", "Choice", "NextTokens", "Written"]

ENDS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>")
SPACES = ("\u2581", "\u0120")
"""What stands for a space in vocabularies: SentencePiece's, and that of byte-level ones."""
"""How common tokenizers write the end of a text."""

Missing = Literal["zero", "least"]


@dataclass(frozen=True)
class NextTokens:
    """The tokens that an endpoint returned, steered; the likeliest first."""

    probabilities: Mapping[str, float]
    """Steered, over the tokens returned."""
    base: Mapping[str, float]
    """The log-probabilities that came back."""
    unsteered: tuple[str, ...]
    """Tokens that are none of the experts', so that they keep what the base gave them."""


@dataclass(frozen=True)
class Choice:
    """One of several options, chosen by the token that an answer begins with."""

    answer: str | None
    """The likeliest; ``None`` if the endpoint returned none of them."""
    probabilities: Mapping[str, float]
    """Of each option, among the options."""
    missing: tuple[str, ...]
    """Options of which no token was returned."""


@dataclass(frozen=True)
class Written:
    """What was written, and how."""

    text: str
    steps: tuple[NextTokens, ...]
    """For each token what there was to choose from."""
    tokens: tuple[str, ...]

    @property
    def changed(self) -> float:
        """The share of the tokens that were not the endpoint's own first choice."""
        first = [next(iter(step.base)) for step in self.steps]
        return sum(a != b for a, b in zip(first, self.tokens, strict=False)) / max(len(self.tokens), 1)


class BlackBox:
    """A model behind an API, steered by an expert and an anti-expert that run here.

    Args:
        endpoint: the model to steer.
        expert: the small model that was tuned, or what ``dt.load_base`` gives.
        antiexpert: the small model untuned. Default: the expert with its deltas off.
        tokenizer: the experts'. Default: that of ``dt.load_base`` where it gave the expert.
        alpha: how strongly to steer, as for :class:`deltatune.ProxyTuned`. Default: 1.0.
        delta: without an anti-expert, the delta or deltas that make the expert one. Default: all that it has.
        ends: tokens that end a text. Default: those of common tokenizers, and the experts' own.

    Raises:
        AttachError: without an anti-expert, the expert has no such delta.
        ConfigError: no tokenizer is known, or alpha is no finite number.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        expert: PreTrainedModel | Base,
        antiexpert: PreTrainedModel | Base | None = None,
        *,
        tokenizer: Any = None,
        alpha: Alpha = 1.0,
        delta: str | Sequence[str] | None = None,
        ends: Sequence[str] = ENDS,
    ) -> None:
        model, known = parts_of(expert)
        self.tokenizer = known if tokenizer is None else tokenizer
        if self.tokenizer is None:
            raise ConfigError(
                "tokenizer: expected the experts', found none; pass tokenizer=, or what dt.load_base gives"
            )
        check_alpha(alpha)
        self.endpoint, self.alpha = endpoint, alpha
        self.expert, self.antiexpert = model, None if antiexpert is None else parts_of(antiexpert)[0]
        self.names = None if delta is None else (delta,) if isinstance(delta, str) else tuple(delta)
        self.ends = frozenset(ends) | {str(self.tokenizer.eos_token)}
        self.vocabulary: Mapping[str, int] = self.tokenizer.get_vocab()
        expert_sides(self.expert, self.antiexpert, self.names)

    def next_tokens(self, prompt: str | Turns, *, expert_prompt: str | None = None, step: int = 0) -> NextTokens:
        """What comes next, among the tokens that the endpoint returns.

        Args:
            prompt: text to go on from, or a chat.
            expert_prompt: what the experts read. Default: the same text; for a chat, the chat through their template,
                or its turns one after the other if they have none.
            step: the number of the token in the answer, for an alpha that changes.

        Raises:
            EndpointError: the endpoint does not answer as it should.
        """
        base = self.endpoint.next_tokens(prompt)
        change, known = self._change(self._read(prompt) if expert_prompt is None else expert_prompt, list(base))
        alpha = alpha_at(self.alpha, step)
        scores = torch.tensor(list(base.values()), dtype=torch.double) + alpha * change
        shares = dict(zip(base, scores.softmax(dim=-1).tolist(), strict=True))
        ordered = dict(sorted(shares.items(), key=lambda pair: -pair[1]))
        return NextTokens(
            ordered, base, tuple(token for token, is_known in zip(base, known, strict=True) if not is_known)
        )

    def choose(
        self,
        prompt: str | Turns,
        options: Sequence[str],
        *,
        missing: Missing = "zero",
        expert_prompt: str | None = None,
    ) -> Choice:
        """Answer a multiple-choice question by one token: one request.

        A token speaks for an option if the two are the same but for white space around them.

        Args:
            prompt: the question with its options, text or a chat.
            options: how an answer may begin, each one token long, such as ``["A", "B", "C", "D"]``.
            missing: what an option scores of which no token was returned: ``"zero"``, no probability, as in the paper;
                or ``"least"``, the least that was returned, steered like any other. Default: ``"zero"``.
            expert_prompt: what the experts read. Default: the same.

        Raises:
            ConfigError: there is no option, or two are alike.
            EndpointError: the endpoint does not answer as it should.
        """
        names = [option.strip() for option in options]
        if not all(names) or not names or len(set(names)) < len(names):
            raise ConfigError(f"options: expected different ones, found {list(options)}; name each once")
        if missing not in get_args(Missing):
            raise ConfigError(f"missing: expected zero or least, found {missing!r}; choose one")
        base = self.endpoint.next_tokens(prompt)
        speaks = {token: token.strip() for token in base if token.strip() in names}
        absent = [name for name in names if name not in speaks.values()]
        scores = {token: base[token] for token in speaks}
        if missing == "least":
            for name in absent:
                scores[name], speaks[name] = min(base.values()), name
        change, _ = self._change(self._read(prompt) if expert_prompt is None else expert_prompt, list(scores))
        alpha = alpha_at(self.alpha, 0)
        steered = torch.tensor(list(scores.values()), dtype=torch.double) + alpha * change
        shares = dict.fromkeys(names, 0.0)
        for token, share in zip(scores, steered.softmax(dim=-1).tolist(), strict=True):
            shares[speaks[token]] += share
        best = max(names, key=lambda name: shares[name]) if scores else None
        by_option = dict(zip(options, shares.values(), strict=True))
        answer = None if best is None else options[names.index(best)]
        return Choice(answer, by_option, tuple(options[names.index(name)] for name in absent))

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        expert_prompt: str | None = None,
    ) -> Written:
        """Write, one request a token.

        Args:
            prompt: text to go on from.
            max_new_tokens: how many tokens to write at most. Default: 64.
            temperature: 0 takes the likeliest; else tokens are drawn, from those returned. Default: 0.
            seed: for drawing the same text again.
            stop: texts that end the writing; they are cut off.
            expert_prompt: what the experts read in place of the prompt, before what was written. Default: the same.

        Raises:
            ConfigError: the temperature is negative, or there is nothing to write.
            EndpointError: the endpoint does not answer as it should.
        """
        if max_new_tokens < 1 or not temperature >= 0:
            raise ConfigError(
                f"generate: expected a token or more and a temperature of 0 or more, found {max_new_tokens} and "
                f"{temperature}; raise them"
            )
        text, steps, tokens = "", [], []
        own = prompt if expert_prompt is None else expert_prompt
        draw = random.Random(seed)
        for step in range(max_new_tokens):
            found = self.next_tokens(prompt + text, expert_prompt=own + text, step=step)
            token = _drawn(found.probabilities, temperature, draw)
            if token is None:
                break
            steps.append(found)
            tokens.append(token)
            if token in self.ends:
                break
            text += token
            cut = min((at for at in (text.find(each) for each in stop if each) if at >= 0), default=None)
            if cut is not None:
                text = text[:cut]
                break
        return Written(text, tuple(steps), tuple(tokens))

    @torch.no_grad()
    def _change(self, text: str, tokens: Sequence[str]) -> tuple[Tensor, list[bool]]:
        """What the experts say of tokens, ``[tokens]``, and which of these they know."""
        sides = expert_sides(self.expert, self.antiexpert, self.names)
        ids = torch.tensor([self._ids(text)])
        expert, anti = (
            logits[0, -1].cpu().double().log_softmax(dim=-1) for logits in run(sides, [Inputs(ids)] * 2, None, 1)
        )
        change, known = torch.zeros(len(tokens), dtype=torch.double), []
        for number, token in enumerate(tokens):
            at = self._number(token)
            known.append(at is not None and at < min(len(expert), len(anti)))
            if at is not None and known[-1]:
                change[number] = expert[at] - anti[at]
        return change, known

    def _ids(self, text: str) -> list[int]:
        """The tokens of a text with what goes before it, but not what goes behind."""
        found = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        start = self.tokenizer.bos_token_id
        framed = list(self.tokenizer(text)["input_ids"])
        if start is not None and framed[:1] == [start] and found[:1] != [start]:
            found = [start, *found]
        return found or [start if start is not None else self.tokenizer.eos_token_id]

    def _number(self, token: str) -> int | None:
        """The experts' number for a token that is one to them too."""
        if token in self.ends:
            return int(self.tokenizer.eos_token_id)
        for space in SPACES:  # as it stands in the vocabulary, for some tokenizers put a space before any text
            number = self.vocabulary.get(token.replace(" ", space))
            if number is not None and self.tokenizer.decode([number]).strip() == token.strip():
                return int(number)
        found = self.tokenizer(token, add_special_tokens=False)["input_ids"]
        return int(found[0]) if len(found) == 1 and found[0] != self.tokenizer.unk_token_id else None

    def _read(self, prompt: str | Turns) -> str:
        if isinstance(prompt, str):
            return prompt
        turns = [dict(turn) for turn in prompt]
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        return "\n".join(turn["content"] for turn in turns) + "\n"


def _drawn(shares: Mapping[str, float], temperature: float, draw: random.Random) -> str | None:
    """A token that can be written: pieces of characters, which APIs spell as bytes, can not."""
    usable = {token: share for token, share in shares.items() if not token.startswith("bytes:") and share > 0}
    if not usable:
        return None
    if temperature == 0:
        return max(usable, key=lambda token: usable[token])
    weights = _tempered(usable.values(), temperature)
    return draw.choices(list(usable), list(weights))[0]


def _tempered(shares: Any, temperature: float) -> Iterator[float]:
    logs = [math.log(share) / temperature for share in shares]
    most = max(logs)
    return (math.exp(each - most) for each in logs)
