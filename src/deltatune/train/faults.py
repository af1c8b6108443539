"""From what pydantic finds wrong to lines that a user can act on: what, what was expected, what was found, what to do.

What was expected is put into words from the JSON Schema, so that a setting is described in one place only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

__all__ = ["Fault", "fault_lines", "in_words", "shown"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a setting."""

    where: str
    expected: str = ""
    found: str = ""
    hint: str = ""
    message: str = ""
    """A whole message, in place of the three parts."""

    def line(self, prefix: str = "") -> str:
        """The fault in one line, below the section `prefix`."""
        where = ".".join(filter(None, (prefix, self.where)))
        text = self.message or f"expected {self.expected}, found {self.found}" + (f"; {self.hint}" if self.hint else "")
        return f"{where}: {text}" if where else text


def fault_lines(error: ValidationError, schema: Mapping[str, Any]) -> list[str]:
    """Every fault of `error`, a line each.

    Args:
        error: what pydantic raised.
        schema: the JSON Schema of what was checked.
    """
    lines = [line for each in error.errors(include_url=False) for line in _lines(each, schema)]
    return list(dict.fromkeys(lines))  # a union reports one fault for each of its members


def _lines(error: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    path, node, parent = _walk(error["loc"], schema)
    where = ".".join(map(str, path))
    match error["type"]:
        case "contradiction":
            yield error["msg"]
        case "settings":
            yield from (fault.line(where) for fault in error["ctx"]["faults"])
        case "extra_forbidden":
            known = list(parent.get("properties", {}))
            name = str(error["loc"][-1])
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "remove it"
            yield Fault(where, f"one of {', '.join(known)}", "an unknown setting", hint).line()
        case "missing":
            yield Fault(where, in_words(node, schema), "nothing", "add it").line()
        case _:
            default = node.get("default")
            has_default = default is not None and not isinstance(default, (dict, list))
            hint = f"leave it out for {default}" if has_default else "change it"
            yield Fault(where, in_words(node, schema), shown(error["input"]), hint).line()


def _walk(
    location: Sequence[str | int], schema: Mapping[str, Any]
) -> tuple[list[str | int], Mapping[str, Any], Mapping[str, Any]]:
    """Follow a location into a schema: the path as the user wrote it, its schema, and the schema around it."""
    path: list[str | int] = []
    node, parent = schema, schema
    for step in location:
        inner = _step(node, step, schema)
        if inner is None:  # the name of a union's member, or a setting that the schema does not have
            if step == location[-1] and _resolved(node, schema).get("properties"):
                return [*path, step], {}, _resolved(node, schema)
            continue
        path.append(step)
        parent, node = _resolved(node, schema), inner
    return path, node, parent


def _step(node: Mapping[str, Any], step: str | int, schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    node = _resolved(node, schema)
    inner: Any = None
    if isinstance(step, int):
        inner = node.get("items")
    elif step in node.get("properties", {}):
        inner = node["properties"][step]
    elif isinstance(node.get("additionalProperties"), Mapping):
        inner = node["additionalProperties"]
    if isinstance(inner, Mapping):
        return inner
    members = (_step(member, step, schema) for member in node.get("anyOf", ()))
    return next((member for member in members if member is not None), None)


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a reference stands for; of a section or null, the section."""
    if "$ref" in node:
        return dict(schema["$defs"][node["$ref"].rpartition("/")[2]])
    sections = [member for member in node.get("anyOf", ()) if "$ref" in member]
    return _resolved(sections[0], schema) if len(sections) == 1 else node


def in_words(node: Mapping[str, Any], schema: Mapping[str, Any] | None = None) -> str:
    """What a JSON Schema allows, such as "a whole number from 1"."""
    if "$ref" in node:
        node = _resolved(node, schema or {})
    if "anyOf" in node:
        return " or ".join(dict.fromkeys(in_words(member, schema) for member in node["anyOf"]))
    if "enum" in node:
        names = [str(name) for name in node["enum"]]
        return f"one of {', '.join(names)}"
    if "const" in node:
        return str(node["const"])
    match node.get("type"):
        case "integer":
            return "a whole number" + _bounds(node)
        case "number":
            return "a number" + _bounds(node)
        case "boolean":
            return "true or false"
        case "string":
            return f"text that matches {node['pattern']}" if "pattern" in node else "text"
        case "null":
            return "null"
        case "array":
            least = f", {node['minItems']} at least" if node.get("minItems", 0) > 1 else ""
            return f"a list of {in_words(node.get('items', {}), schema)}{least}"
        case "object":
            needed = ", ".join(node.get("required", ()))
            return (
                f"a section with {needed}" if needed else "a section" if "properties" in node else "names with values"
            )
        case _:
            return "something else"


def _bounds(node: Mapping[str, Any]) -> str:
    words = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    parts = [f"{word} {node[key]:g}" for key, word in words.items() if key in node]
    return f" {' and '.join(parts)}" if parts else ""


def shown(value: object) -> str:
    """A value as an error shows it: as YAML would have it, cut to a length that fits in a line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
