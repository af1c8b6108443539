"""Hugging Face PEFT's file layout: where a tensor stands in ``adapter_model.safetensors``.

A tensor of site ``s`` is under ``base_model.model.<s>.<name>``. PEFT writes some more for its own wrappers; what only
repeats or restates the base is dropped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from deltatune.attachment.sites import base_modules

__all__ = ["PREFIX", "from_keys", "is_redundant", "short_names", "task_type", "to_keys"]

PREFIX = "base_model.model."


def to_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under ``<site>.<name>`` as they stand in a file."""
    return {PREFIX + key: tensor for key, tensor in tensors.items()}


def from_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of :func:`to_keys`; a key of another form stays as it is, to be refused by its name."""
    return {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}


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


def short_names(model: nn.Module, sites: Iterable[str]) -> list[str]:
    """The shortest list of names that PEFT resolves to exactly ``sites``: their last parts, else the whole names."""
    whole = set(sites)
    ends = sorted({site.rpartition(".")[2] for site in whole})
    matched = {name for name, _ in base_modules(model) if name.rpartition(".")[2] in ends}
    return ends if matched == whole else sorted(whole)
