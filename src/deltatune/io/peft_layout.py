"""Hugging Face PEFT's file layout: where a tensor stands in ``adapter_model.safetensors``.

A tensor of site ``s`` is under ``base_model.model.<s>.<name>``. PEFT writes some more for its own wrappers; what only
repeats or restates the base is dropped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from deltatune.attachment.sites import SEMANTIC, base_modules

__all__ = [
    "BESIDE",
    "PREFIX",
    "as_modules",
    "as_patterns",
    "as_targets",
    "from_keys",
    "in_layers",
    "is_redundant",
    "short_names",
    "task_type",
    "to_keys",
]

PREFIX = "base_model.model."
BESIDE = "base_model."
"""The same for what PEFT keeps beside a model, not in its layers: prompts and prefixes, and heads trained with them."""


def to_keys(tensors: Mapping[str, Tensor], prefix: str = PREFIX) -> dict[str, Tensor]:
    """Tensors under ``<site>.<name>`` as they stand in a file."""
    return {prefix + key: tensor for key, tensor in tensors.items()}


def from_keys(tensors: Mapping[str, Tensor], prefix: str = PREFIX) -> dict[str, Tensor]:
    """The reverse of :func:`to_keys`; a key of another form stays as it is, to be refused by its name."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}


def is_redundant(key: str, expected: Mapping[str, object]) -> bool:
    """Whether ``key`` only repeats something: PEFT saves wrapped heads thrice when it trains their biases."""
    for wrapper in (".modules_to_save.", ".original_module."):
        if wrapper in key and key.replace(wrapper, ".") in expected:
            return True
    return False


def task_type(model: nn.Module) -> str | None:
    """PEFT's name for what a model is for; its prompt-learning methods act only if they know it."""
    return next((task for end, task in _TASKS.items() if type(model).__name__.endswith(end)), None)


_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "Model": "FEATURE_EXTRACTION",
}


_ANYWHERE = r"(.*\.)?"
"""Before the end of a name in a pattern for the whole."""


def as_targets(names: str | Iterable[str] | None) -> tuple[str, ...]:
    """PEFT's names of modules, a list of their ends or one pattern for the whole, as targets that mean the same."""
    if names == "all-linear":
        return ("all_linear",)
    if isinstance(names, str):
        return (f"({names})",)
    return tuple(_ANYWHERE + name if name in SEMANTIC else name for name in names or ())


def in_layers(
    targets: tuple[str, ...], layers: int | Iterable[int], pattern: str | Iterable[str] | None
) -> tuple[str, ...]:
    """Targets in some layers of the stacks that PEFT's ``layers_pattern`` names, as patterns that mean the same."""
    numbers = [layers] if isinstance(layers, int) else list(layers)
    stacks = [pattern] if isinstance(pattern, str) else list(pattern or ())
    place = rf"(.*?\.)?({'|'.join(stacks)})\.({'|'.join(map(str, numbers))})\."
    return tuple(rf"{place}(.*\.)?{target.removeprefix(_ANYWHERE)}" for target in targets)


def as_modules(names: Iterable[str] | None) -> tuple[str, ...]:
    """PEFT's ``modules_to_save`` as one pattern: ends of names, of which a model may lack some.

    PEFT itself lists both ``classifier`` and ``score`` for any classifier.
    """
    ends = "|".join(re.escape(name) for name in names or ())
    return (f".*({ends})",) if ends else ()


def as_patterns(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """PEFT's rank or alpha pattern: its keys are patterns for the end of a name, and the first that fits counts."""
    return {rf"(.*\.)?({key})": value for key, value in reversed(list((settings or {}).items()))}


def short_names(model: nn.Module, sites: Iterable[str]) -> list[str]:
    """The shortest list of names that PEFT resolves to exactly ``sites``: their last parts, else the whole names."""
    whole = set(sites)
    ends = sorted({site.rpartition(".")[2] for site in whole})
    matched = {name for name, _ in base_modules(model) if name.rpartition(".")[2] in ends}
    return ends if matched == whole else sorted(whole)
