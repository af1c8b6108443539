"""Small random models that read whole rows, and rows whose class can be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModel, AutoTokenizer

import deltatune as dt
from deltatune.apps.tab.task import Task
from deltatune.io.bases import Base
from tests.cli import tiny

WARMTH = Task("Is it warm?", {0: "no", 1: "yes"})
TEXTS = ["The colour is red.", "The colour is blue. The size is 3.", "The colour is pink. The size is 14.", "Nothing."]

_ROUNDING = "float32 is rounded otherwise in other batches; the check allows what float64 gives"
EXPECTED_FAILURES = {
    "check_estimators_pickle": "a fitted classifier is saved as safetensors and JSON, never pickled",
    "check_methods_subset_invariance": _ROUNDING,
    "check_methods_sample_order_invariance": _ROUNDING,
}
"""Of scikit-learn's checks, those that classifiers of text need not pass, and why."""


def llama(folder: Path, *, chat: bool = False, **settings: Any) -> str:
    # Weights of the usual size would give every text the same logits.
    own = {"max_position_embeddings": 2048, "initializer_range": 0.3, **settings}
    return _long(tiny.save_llama(folder, chat=chat, **own))


def t5(folder: Path) -> str:
    return _long(tiny.save_t5(folder))


def bert(folder: Path) -> str:
    model = AutoModel.from_pretrained(tiny.save_bert(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    return str(folder)


def double(source: str) -> Base:
    """A base in double precision, in which two ways to one number can be told from two numbers."""
    base = dt.load_base(source)
    base.model.double()
    return base


def rows(count: int = 16) -> tuple[pd.DataFrame, pd.Series]:
    """Colours with a number; what is warm has the colour red or pink."""
    colours = ("red", "blue", "pink", "green")
    frame = pd.DataFrame(
        {"colour": [colours[i % 4] for i in range(count)], "size": [(7 * i) % 19 for i in range(count)]}
    )
    return frame, frame["colour"].isin(["red", "pink"]).astype(int).rename("warmth")


@torch.no_grad()
def likelihoods(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The log-probability of each token of an answer, alone."""
    return with_gradients(model, prompt, answer)


def with_gradients(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """The same, with gradients."""
    if model.config.is_encoder_decoder:
        start = torch.tensor([[model.config.decoder_start_token_id, *answer[:-1]]])
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits[0]
    else:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, -len(answer) - 1 : -1]
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def _long(folder: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 2048
    tokenizer.save_pretrained(folder)
    return str(folder)
