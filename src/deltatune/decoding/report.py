"""What steering changed, token by token: what the base would have written, and how far it was moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deltatune.decoding.alpha import alpha_at
from deltatune.decoding.sides import Inputs
from deltatune.errors import DataError

if TYPE_CHECKING:
    from rich.table import Table

    from deltatune.decoding.proxy import ProxyTuned

__all__ = ["Explanation", "TokenChange", "explain"]


@dataclass(frozen=True, slots=True)
class TokenChange:
    """A written token, before and after steering."""

    token: int
    text: str
    """The token in plain text; its number, if no tokenizer is known."""
    probability: float
    """Of this token, steered."""
    base_probability: float
    """Of this token, by the base alone."""
    rank: int
    """Of this token, steered; 1 is the likeliest."""
    base_rank: int
    """Of this token, by the base alone."""
    base_choice: int
    """What the base alone finds likeliest."""
    base_choice_text: str
    base_choice_probability: float
    divergence: float
    """How far the base was moved here, in nats: KL(steered ‖ base)."""
    alpha: float

    @property
    def changed(self) -> bool:
        """Whether the base alone, greedily, would have written another token."""
        return self.token != self.base_choice


@dataclass(frozen=True)
class Explanation:
    """The changes of a text, in its order. Prints as a table by rich."""

    tokens: tuple[TokenChange, ...]

    def __iter__(self) -> Iterator[TokenChange]:
        return iter(self.tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def changed(self) -> float:
        """The share of the tokens that the base alone would not have written."""
        return sum(each.changed for each in self.tokens) / max(len(self.tokens), 1)

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table("token", "p", "p of base", "rank", "base's choice", "its p", "KL", "alpha")
        for each in self.tokens:
            moved = f"{each.base_rank} → {each.rank}" if each.rank != each.base_rank else str(each.rank)
            table.add_row(
                Text(repr(each.text), style="bold" if each.changed else ""),
                f"{each.probability:.3f}",
                f"{each.base_probability:.3f}",
                moved,
                Text(repr(each.base_choice_text)) if each.changed else "",
                f"{each.base_choice_probability:.3f}",
                f"{each.divergence:.3f}",
                f"{each.alpha:g}",
            )
        return table


@torch.no_grad()
def explain(proxy: ProxyTuned, ids: Tensor, prompt_tokens: int, expert_input_ids: Tensor | None = None) -> Explanation:
    """Compare the combined logits with the base's at each written token, in one pass over the text.

    Probabilities are those at temperature 1, before top-p, penalties and the like.

    Args:
        proxy: the model.
        ids: the prompt and what was written, ``[tokens]`` or ``[1, tokens]``, without padding.
        prompt_tokens: how many of them are the prompt; at least 1.
        expert_input_ids: the expert's own prompt, if it had one, ``[other tokens]`` or ``[1, other tokens]``.

    Raises:
        DataError: there is more than one text, or no prompt.
    """
    ids = torch.atleast_2d(ids)
    if len(ids) != 1 or not 0 < prompt_tokens <= ids.shape[1]:
        raise DataError(
            f"explain: expected one text with a prompt in front, found {tuple(ids.shape)} with a prompt of "
            f"{prompt_tokens}; give one text, and the length of its prompt"
        )
    written = ids[0, prompt_tokens:]
    own = None
    if expert_input_ids is not None:
        theirs = torch.atleast_2d(expert_input_ids)
        own = (torch.cat([theirs, written[None].to(theirs.device)], dim=1), None)
    keep = len(written) + 1
    base, expert, antiexpert = proxy.logits(Inputs(ids), own, None, keep)
    alphas = [alpha_at(proxy.alpha, step) for step in range(len(written))]
    strength = base.new_tensor(alphas)[:, None]
    before = base[0, :-1].log_softmax(dim=-1)
    change = proxy.vocabulary.difference(expert, antiexpert)[0, :-1]
    after = (base[0, :-1] + strength * change).log_softmax(dim=-1)
    at = written.to(before.device)[:, None]
    own_p, base_p = after.gather(1, at), before.gather(1, at)
    best, choice = before.max(dim=-1)
    divergence = (after.exp() * (after - before)).nan_to_num(nan=0.0).sum(dim=-1)  # of what can not be written: 0
    columns = {
        "token": written,
        "probability": own_p.exp()[:, 0],
        "base_probability": base_p.exp()[:, 0],
        "rank": (after > own_p).sum(dim=-1) + 1,
        "base_rank": (before > base_p).sum(dim=-1) + 1,
        "base_choice": choice,
        "base_choice_probability": best.exp(),
        "divergence": divergence,
    }
    rows = zip(*(tensor.tolist() for tensor in columns.values()), alphas, strict=True)
    names = (*columns, "alpha")
    return Explanation(tuple(_change(proxy.tokenizer, dict(zip(names, row, strict=True))) for row in rows))


def _change(tokenizer: Any, row: dict[str, Any]) -> TokenChange:
    def text(token: int) -> str:
        return str(token) if tokenizer is None else str(tokenizer.decode([token]))

    return TokenChange(**row, text=text(row["token"]), base_choice_text=text(row["base_choice"]))
