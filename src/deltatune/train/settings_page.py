"""The settings of a run as a page that people read, from the JSON Schema that editors do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deltatune.markdown import table_lines

__all__ = ["settings_page"]

METHOD = "DeltaSpec"
"""What a method may be set to differs from method to method, and stands on its page."""
HEADS = ("setting", "default", "what it is")


def settings_page(schema: Mapping[str, Any], command: str) -> str:
    """A page in Markdown: a table for each section of the settings.

    Args:
        schema: of the settings, as :func:`~deltatune.train.config_file.config_schema` makes it.
        command: that prints the page.
    """
    required = set(schema.get("required", ()))
    plain = [(name, node) for name, node in schema["properties"].items() if _section(node, schema) is None]
    sections = [(name, node) for name, node in schema["properties"].items() if _section(node, schema) is not None]
    parts = [[f"# {schema['title']}: settings"], [schema["description"]], [f"This page is what `{command}` prints."]]
    if plain:
        rows = (_row(name, node, required=name in required) for name, node in plain)
        parts.append(table_lines(HEADS, rows, left=3))
    for name, node in sections:
        parts += [[f"## {name}"], [_said(node) or _said(_section(node, schema) or {})]]
        parts.append(table_lines(HEADS, _rows(name, node, schema), left=3))
    return "\n\n".join("\n".join(part) for part in parts if any(part)) + "\n"


def _rows(name: str, node: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    section = _section(node, schema) or {}
    for own, inner in section["properties"].items():
        yield _row(f"{name}.{own}", inner, required=own in section.get("required", ()))
        if _section(inner, schema) is not None:
            yield from _rows(f"{name}.{own}", inner, schema)


def _row(name: str, node: Mapping[str, Any], *, required: bool) -> tuple[str, str, str]:
    told = not required and "default" in node and not (isinstance(node["default"], dict) and node["default"])
    default = f"`{json.dumps(node['default'], ensure_ascii=False)}`" if told else ""
    choices = next((each["enum"] for each in _forms(node) if "enum" in each), ())
    named = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    method = " See the page of the method." if _refers(node, METHOD) else ""
    return f"`{name}`", default, f"{_said(node)}{named}{method}".strip()


def _said(node: Mapping[str, Any]) -> str:
    return " ".join(node.get("description", "").split())


def _section(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that a setting is, with settings of its own; `None` for a plain value and for a method."""
    for form in _forms(node):
        found: Mapping[str, Any] = schema["$defs"].get(form.get("$ref", "").rpartition("/")[2], {})
        if "properties" in found:
            return found
    return None


def _refers(node: Mapping[str, Any], name: str) -> bool:
    return any(form.get("$ref", "").endswith(f"/{name}") for form in _forms(node))


def _forms(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The forms that a setting may have."""
    yield node
    for key in ("anyOf", "oneOf", "allOf"):
        for form in node.get(key, ()):
            yield from _forms(form)
    if isinstance(node.get("items"), Mapping):
        yield from _forms(node["items"])
