"""Formats: which fields a row must have, and what they build."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral

from deltatune.train.examples import Chat, Completion, Example, Fields, Labeled, Message, RecordError, Text, kind

__all__ = ["FORMATS", "Format"]

_ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
    "observation": "tool",
}


@dataclass(frozen=True, slots=True)
class Format:
    """A way to lay out a record: the fields it must have, those it may have, and what they build."""

    name: str
    required: tuple[str, ...]
    build: Callable[[Fields], Example]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.required)})"


def _text(fields: Fields, name: str, where: str = "field") -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise RecordError(f"{where} '{name}' should be a string, found {kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair; a tokenizer would fail on it, far from here
        raise RecordError(f"{where} '{name}' holds half a surrogate pair, which is no character") from None
    return value


def _optional_text(fields: Fields, name: str) -> str:
    return "" if fields.get(name) is None else _text(fields, name)


def _list_of_dicts(fields: Fields, name: str) -> list[Fields]:
    value = fields[name]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        found = kind(value) if not isinstance(value, list) else "a list of something else"
        raise RecordError(f"field '{name}' should be a list of objects, found {found}")
    return value


def _completion(fields: Fields) -> Completion:
    return Completion(_text(fields, "prompt"), _text(fields, "completion"))


def _alpaca(fields: Fields) -> Completion:
    parts = (_text(fields, "instruction"), _optional_text(fields, "input"))
    return Completion("\n\n".join(filter(None, parts)), _text(fields, "output"), separator="\n\n")


def _messages(fields: Fields) -> Chat:
    turns = [_message(turn, f"messages[{i}]") for i, turn in enumerate(_list_of_dicts(fields, "messages"))]
    tools = _list_of_dicts(fields, "tools") if fields.get("tools") is not None else []
    return _chat(turns, "messages", tuple(tools))


def _message(turn: Fields, where: str) -> Message:
    if turn.get("weight") not in (None, 1):
        raise RecordError(f"{where} has weight {turn['weight']!r}, and weights of single turns are not supported")
    # A turn that only calls tools has no content in the OpenAI format; every other turn must have it.
    calls_only = turn.get("tool_calls") and turn.get("content") is None
    content = "" if calls_only else _text(turn, "content", where)
    role = _role(_text(turn, "role", where), {role: role for role in _ROLES}, where)
    extra = {k: v for k, v in turn.items() if k not in ("role", "content", "weight") and v is not None}
    return Message(role, content, extra)


def _sharegpt(fields: Fields) -> Chat:
    turns = []
    for i, turn in enumerate(_list_of_dicts(fields, "conversations")):
        where = f"conversations[{i}]"
        role = _role(_text(turn, "from", where), _SHAREGPT_ROLES, where)
        turns.append(Message(role, _text(turn, "value", where)))
    return _chat(turns, "conversations")


def _role(found: str, known: Mapping[str, str], where: str) -> str:
    if found not in known:
        raise RecordError(f"{where} has the role {reprlib.repr(found)}, known are {', '.join(known)}")
    return known[found]


def _chat(turns: list[Message], name: str, tools: tuple[Fields, ...] = ()) -> Chat:
    if not any(turn.role == "assistant" for turn in turns):
        raise RecordError(f"field '{name}' has no assistant turn, so nothing to learn")
    return Chat(tuple(turns), tools)


def _labeled(fields: Fields) -> Labeled:
    label = fields["label"]
    if isinstance(label, Integral) and not isinstance(label, bool):  # Integral: numpy's integers too
        label = int(label)
    elif not isinstance(label, str) or not label:
        found = "an empty one" if label == "" else kind(label)
        raise RecordError(f"field 'label' should be a name or an int, found {found}")
    return Labeled(_text(fields, "text"), _optional_text(fields, "text_pair") or None, label)


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format("prompt-completion", ("prompt", "completion"), _completion),
        Format("messages", ("messages",), _messages, ("tools",)),
        Format("sharegpt", ("conversations",), _sharegpt),
        Format("alpaca", ("instruction", "output"), _alpaca, ("input",)),
        Format("classification", ("text", "label"), _labeled, ("text_pair",)),
        Format("text", ("text",), lambda fields: Text(_text(fields, "text"))),
    )
}
