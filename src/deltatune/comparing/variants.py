"""What is compared: methods with settings, from text such as ``lora:r=16,alpha=32``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.errors import ConfigError
from deltatune.methods import METHODS
from deltatune.methods.base import is_number
from deltatune.methods.written import FULL, WHOLE, Written, read_methods

__all__ = ["BASE", "WORDS", "Variant", "all_methods", "variants"]

BASE = "base"
"""The variant in which nothing is trained, or of a model with a task head the head alone."""

WORDS = {
    BASE: "the base as it is; of a classifier, with its fresh head trained and nothing else",
    FULL: "full fine-tuning; of a language model, all but an output head that is not tied to the embeddings",
    "config": "what the config itself attaches",
}
"""What may stand for a method, and what it means."""

RATE = "learning_rate"
"""A setting that every method takes here: its own learning rate."""


@dataclass(frozen=True)
class Variant:
    """One row of the comparison: what to attach."""

    label: str
    """Its name: the method, and the settings that differ from the defaults."""
    deltas: tuple[Mapping[str, Any], ...] = ()
    """What to attach, as in a config's `deltas`; nothing for the base."""
    learning_rate: float | None = None
    """The learning rate it is to have; `None`: the config's, or the one that a search finds."""
    key: str = field(default="", compare=False)
    """The method's key, or the word that stood for it."""

    @property
    def folder(self) -> str:
        """A name for its folder, another for each variant."""
        plain = re.sub(r"[^A-Za-z0-9=._+-]+", "-", self.label).strip("-")
        if plain == self.label and len(plain) <= _LONGEST:
            return plain
        digest = hashlib.sha256(json.dumps([self.label, *self.deltas], sort_keys=True).encode()).hexdigest()
        return f"{plain[:_LONGEST]}-{digest[:8]}"


_LONGEST = 60


def all_methods() -> tuple[str, ...]:
    """The methods that need no settings, with the base before them and full fine-tuning after them."""
    from deltatune.train.method_settings import setting_faults

    return (BASE, *(key for key in METHODS if not setting_faults(key, {})), "full")


def variants(methods: str | Iterable[str], own: Sequence[Mapping[str, Any]]) -> list[Variant]:
    """Read what is to be compared.

    Args:
        methods: keys of the table of methods or words of `WORDS`, each with settings after a colon, if any:
            ``"lora,lora:r=16,alpha=32"`` or ``["lora", "lora:r=16,alpha=32"]``. Values are YAML.
        own: what the config attaches.

    Raises:
        ConfigError: a method or a setting is unknown, or a variant stands there twice.
    """
    found = [_variant(written, own) for written in read_methods(methods, WORDS)]
    for label in {each.label for each in found}:
        if sum(each.label == label for each in found) > 1:
            raise ConfigError(f"methods: expected each variant once, found {label!r} twice; leave one out")
    return found


def _variant(written: Written, own: Sequence[Mapping[str, Any]]) -> Variant:
    key, text, settings = written.key, written.text, dict(written.settings)
    rate = settings.pop(RATE, None)
    if rate is not None and not (is_number(rate) and rate > 0):
        raise ConfigError(f"methods: {text}: {RATE}: expected a number above 0, found {rate!r}; change it")
    if key in (BASE, "config") and settings:
        raise ConfigError(f"methods: {text}: expected no settings, found {next(iter(settings))}; leave it out")
    if key == BASE:
        deltas: tuple[Mapping[str, Any], ...] = ()
    elif key == "config":
        deltas = tuple(own)
    else:
        deltas = ({**(WHOLE if key == FULL else {"method": key}), **settings},)
    return Variant(written.label, _checked(deltas, text), None if rate is None else float(rate), key)


def _checked(deltas: tuple[Mapping[str, Any], ...], text: str) -> tuple[Mapping[str, Any], ...]:
    from deltatune.train.method_settings import setting_faults

    for delta in deltas:
        settings = {name: value for name, value in delta.items() if name not in ("method", "name")}
        for fault in setting_faults(delta["method"], settings):
            raise ConfigError(f"methods: {text}: {fault.line()}")
    return deltas
