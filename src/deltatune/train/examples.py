"""Examples: what a record can hold, whichever format it was laid out in, and what is wrong with one that holds none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Chat", "Completion", "Example", "Fields", "Labeled", "Message", "RecordError", "Text", "kind"]

Fields: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Completion:
    """A prompt (not learned) and its completion (learned)."""

    prompt: str
    completion: str
    separator: str = ""
    """What stands between the two when no chat template does; alpaca's fields, which carry none, use a blank line."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `extra` holds the other keys a template may read, such as `tool_calls` or `name`."""

    role: str
    content: str
    extra: Fields = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, of which the assistant's turns are learned; `tools` are JSON schemas for the template."""

    messages: tuple[Message, ...]
    tools: tuple[Fields, ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, all of it learned."""

    text: str


@dataclass(frozen=True, slots=True)
class Labeled:
    """A text, or a pair of texts, and its class."""

    text: str
    text_pair: str | None
    label: int | str


Example: TypeAlias = Completion | Chat | Text | Labeled


class RecordError(Exception):
    """What is wrong with one record; `read_records` adds where."""


def kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
