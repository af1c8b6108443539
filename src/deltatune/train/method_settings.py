"""The settings of the methods, checked and described from their dataclasses: nothing here knows any one method."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Union

from pydantic import TypeAdapter, ValidationError

from deltatune.errors import ConfigError
from deltatune.methods import METHODS, from_config, method_class
from deltatune.train.faults import Fault, in_words, shown

__all__ = ["method_schema", "setting_faults"]


def setting_faults(method: str, settings: Mapping[str, Any]) -> list[Fault]:
    """Everything that is wrong with the settings of a method: all unknown names, wrong types and bad values."""
    if method not in METHODS:
        return [Fault("method", f"one of {', '.join(METHODS)}", shown(method), _near(method, METHODS))]
    kinds = _kinds(method)
    unknown = [
        Fault(name, f"a setting of {method} ({', '.join(kinds)})", "an unknown one", _near(name, kinds))
        for name in settings
        if name not in kinds
    ]
    wrong = [fault for name, value in settings.items() if name in kinds for fault in _wrong_type(name, kinds, value)]
    bad = {fault.where for fault in unknown + wrong}
    return unknown + wrong + _out_of_range(method, {n: value for n, value in settings.items() if n not in bad}, bad)


def method_schema(method: str) -> dict[str, Any]:
    """The JSON Schema of a method's settings, with the descriptions of its docstring."""
    cls, described = method_class(method), _descriptions(method_class(method))
    properties: dict[str, Any] = {"method": {"const": method}, "name": {"type": "string", "default": "default"}}
    defaults = {field.name: field for field in dataclasses.fields(cls)}
    for name, kind in _kinds(method).items():
        properties[name] = _schema(kind) | {"description": described.get(name, "")} | _default(defaults[name])
    summary = (inspect.getdoc(cls) or "").split(". ")[0].rstrip(".")
    return {
        "type": "object",
        "title": method,
        "description": summary,
        "properties": properties,
        "required": ["method"],
        "additionalProperties": False,
    }


def _kinds(method: str) -> dict[str, Any]:
    """The name and the type of each setting."""
    cls = method_class(method)
    hints = typing.get_type_hints(cls)
    return {field.name: _or_one(hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def _or_one(hint: Any) -> Any:
    """Where a method takes several names, one will do."""
    several = tuple[str, ...]
    if hint == several:
        return str | several
    if typing.get_origin(hint) in (Union, types.UnionType) and several in typing.get_args(hint):
        return str | hint
    return hint


def _schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema()


def _wrong_type(name: str, kinds: Mapping[str, Any], value: Any) -> list[Fault]:
    try:
        TypeAdapter(kinds[name]).validate_python(value)
    except ValidationError:
        return [Fault(name, in_words(_schema(kinds[name])), shown(value), "see `deltatune schema`")]
    return []


def _out_of_range(method: str, settings: dict[str, Any], bad: set[str]) -> list[Fault]:
    """What the method itself refuses. It stops at the first fault, so each culprit is taken out in turn.

    What it needs may have been taken out too; that it is missing is then no fault of the user's.
    """
    faults: list[Fault] = []
    lacking = _refusal(method, {})
    while message := _refusal(method, settings):
        if message == lacking and (faults or bad):
            break
        culprit = next((name for name in settings if _refusal(method, settings, without=name) != message), None)
        faults.append(Fault(culprit or "", message=message))
        if culprit is None:
            break
        del settings[culprit]
    return faults


def _refusal(method: str, settings: Mapping[str, Any], without: str | None = None) -> str | None:
    try:
        from_config({"method": method, **{name: value for name, value in settings.items() if name != without}})
    except ConfigError as error:
        return str(error)
    return None


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else "see `deltatune schema`"


def _default(field: dataclasses.Field[Any]) -> dict[str, Any]:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if value is dataclasses.MISSING:
        return {}
    return {"default": TypeAdapter(Any).dump_python(value, mode="json")}


_ARGUMENT = re.compile(r"^    (\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)


def _descriptions(cls: type) -> dict[str, str]:
    """Each setting's description, from the `Args:` of the class and of those it extends."""
    found: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.cleandoc(each.__doc__ or ""), re.MULTILINE)
        if section:
            for name, text in _ARGUMENT.findall(section[1]):
                found[name] = " ".join(text.replace("``", "").split())
    return found
