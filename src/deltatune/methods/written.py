"""Methods as they are written on a command line: ``lora,lora:r=16,alpha=32``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from deltatune.errors import ConfigError
from deltatune.methods import METHODS

__all__ = ["FULL", "WHOLE", "Written", "read_methods"]

FULL = "full"
"""The word for full fine-tuning."""
WHOLE: dict[str, Any] = {"method": "child", "mode": "F", "p": 1.0, "targets": ["all"]}
"""Full fine-tuning as a method: Child-Tuning whose child is the whole network in every step."""


@dataclass(frozen=True)
class Written:
    """A method and its settings as somebody wrote them; not checked against what the method knows."""

    text: str
    key: str
    """Of the table of methods, or a word that stands for one."""
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """The same in one form: ``lora r=16 alpha=32``."""
        return " ".join([self.key, *(f"{name}={_short(value)}" for name, value in self.settings.items())])


def read_methods(methods: str | Iterable[str], words: Collection[str] = ()) -> list[Written]:
    """Read methods, several in a text or one in each.

    Args:
        methods: keys of the table of methods, or words, each with settings after a colon, if any. Values are YAML.
        words: what else may stand for a method. Default: nothing.

    Raises:
        ConfigError: there is none, one is unknown, or a setting has no name or value.
    """
    texts = [text for each in ([methods] if isinstance(methods, str) else methods) for text in _split(each)]
    if not texts:
        raise ConfigError("methods: expected methods, such as lora,bitfit, found none; name some")
    return [_read(text, words) for text in texts]


def _split(text: str) -> Iterator[str]:
    """The methods in a list of them. A part with `=` and no method before it is one more setting of the last."""
    current = ""
    for part in _at_commas(text):
        goes_on = "=" in part and not re.match(r"\w+:", part)
        if goes_on and not current:
            raise ConfigError(f"methods: expected a method before {part!r}, found none; write it as lora:{part}")
        if goes_on:
            current += ("," if ":" in current else ":") + part
            continue
        if current:
            yield current
        current = part
    if current:
        yield current


def _at_commas(text: str) -> list[str]:
    """The parts between commas, but for those in brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _read(text: str, words: Collection[str]) -> Written:
    key, _, rest = text.partition(":")
    key = key.strip()
    known = [*METHODS, *words]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise ConfigError(f"methods: expected some of {', '.join(known)}, found {key!r}; {hint}")
    return Written(text, key, dict(_setting(part, text) for part in _at_commas(rest)))


def _setting(part: str, text: str) -> tuple[str, Any]:
    name, equals, value = part.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"methods: {text}: expected settings such as r=16, found {part!r}; write it as name=value")
    try:
        number = float(value) if re.fullmatch(r"\s*[-+]?[\d.]+[eE][-+]?\d+\s*", value) else None  # YAML 1.1: text
        return name.strip(), yaml.safe_load(value) if number is None else number
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"methods: {text}: expected a YAML value after {name}=, found {value!r}; mend it") from None


def _short(value: Any) -> str:
    text = str(value)
    return text.replace("'", "").replace(", ", ",")
