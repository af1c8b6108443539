"""A prompt that is put into each row of a stack's input, where P and the text see each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deltatune.attachment.calls import Call
from deltatune.attachment.part import Part
from deltatune.attachment.stacks import (
    counts_distances,
    first_position,
    positions_of,
    refuse_unlearned,
    takes_positions,
    widen_mask,
)
from deltatune.errors import AttachError
from deltatune.methods.soft_prompt import PromptPart, SoftPrompt, embedding

__all__ = ["InsertedPrompt", "SeesPrompt"]


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
            embeds = embedding(call.module)(ids) if embeds is None else embeds
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
        refuse_unlearned(call, text, p)
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
