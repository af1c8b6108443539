"""Reading a run's settings: a YAML file, with single settings changed on the command line."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

import deltatune
from deltatune.errors import ConfigError
from deltatune.methods import METHODS
from deltatune.train.config import NO_DELTA, SHORT, RunConfig
from deltatune.train.faults import fault_lines, shown
from deltatune.train.method_settings import method_schema

__all__ = ["config_schema", "config_text", "load_config", "load_settings", "parse_config"]


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read and check the settings of a run.

    Args:
        path: a YAML file.
        overrides: single settings that go before the file's, each `dotted.path=value`, the value in YAML; a number
            in the path is a place in a list, as in `deltas.1.r=4`.

    Raises:
        ConfigError: the file can not be read or is not YAML, or settings are wrong; then one line for each fault.
    """
    return parse_config(load_settings(path, overrides), str(path))


def load_settings(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read settings from a YAML file and change single ones; whether they are right is not checked.

    Args:
        path: a YAML file.
        overrides: as for `load_config`.

    Raises:
        ConfigError: the file can not be read or is not YAML, or an override leads nowhere.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}: can not be read ({reason}); expected a YAML file; check the path") from None
    data = _mapping(_parsed(text, str(path)), str(path))
    for override in overrides:
        _apply(data, override)
    return data


def parse_config(data: Mapping[str, Any], name: str = "config") -> RunConfig:
    """Check settings that are in memory.

    Args:
        data: the settings, as plain data.
        name: what to call them in an error.

    Raises:
        ConfigError: settings are wrong; one line for each fault.
    """
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        lines = fault_lines(error, _plain_schema())
        if not {"delta", "deltas"} & data.keys() and NO_DELTA not in lines:  # found last, and not at all beside others
            lines.append(NO_DELTA)
        raise ConfigError("\n".join(f"{name}: {line}" for line in lines)) from None


def config_text(config: RunConfig) -> str:
    """The settings as YAML, defaults and overrides filled in."""
    data = config.model_dump(mode="json")
    del data["deltas" if config.deltas is None else "delta"]
    return f"# deltatune {deltatune.__version__}\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


@functools.cache
def _plain_schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


def config_schema(settings: type[BaseModel] = RunConfig, title: str = "A training run of deltatune") -> dict[str, Any]:
    """The JSON Schema of settings, each method's own among them, for editors to complete and check.

    Args:
        settings: what the file holds. Default: a run's.
        title: what the schema is called.
    """
    schema = settings.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = title
    schema["$defs"]["DeltaSpec"] = {"oneOf": [method_schema(method) for method in METHODS]}
    for name in SHORT.keys() & schema["properties"].keys():
        section = schema["properties"][name]
        description = section.pop("description", "")
        schema["properties"][name] = {"description": description, "anyOf": [{"type": "string"}, section]}
    return schema


class _Loader(yaml.SafeLoader):
    """YAML that reads 3e-4 as a number, which YAML 1.1 does not, and refuses a name given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for name in names:
            if names.count(name) > 1:
                raise yaml.MarkedYAMLError(problem=f"{name!r} stands here twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def _parsed(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: it makes plain data only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{name}{place}: not YAML ({reason}); correct it") from None


def _mapping(data: Any, name: str) -> dict[str, Any]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected sections such as base, delta and data, found {shown(data)}; write them")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
    """Change one setting in place."""
    override = " ".join(override.splitlines())
    path, equals, text = override.partition("=")
    steps = path.strip().split(".")
    if not equals or not all(steps):
        raise ConfigError(f"--set {override}: expected dotted.path=value, as in --set train.learning_rate=3e-4")
    value = _parsed(text, f"--set {override}")
    node: Any = data
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        key = _key(node, step, override)
        if after is None:
            node[key] = value
            return
        if isinstance(node, dict):
            if node is data and step in SHORT and isinstance(node.get(step), str):
                node[step] = {SHORT[step]: node[step]}
            if node.get(step) is None:
                node[step] = {}
        node = node[key]


def _key(node: Any, step: str, override: str) -> str | int:
    if isinstance(node, dict):
        return step
    if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
        return int(step)
    expected = f"a number below {len(node)}" if isinstance(node, list) else "a section to look in"
    raise ConfigError(f"--set {override}: expected {expected} at {step!r}, found {shown(node)}; check the path")
