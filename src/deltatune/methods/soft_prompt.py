"""P, the trained vectors of a prompt, and the part that owns them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deltatune.attachment.part import Params, Part

__all__ = ["PromptPart", "SoftPrompt", "embedding"]


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

    @property
    def positions(self) -> int:
        return self.prompt.tokens

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


def embedding(stack: nn.Module) -> nn.Embedding:
    """The table that a stack reads its tokens from."""
    return stack.get_input_embeddings()  # type: ignore[operator,no-any-return]
