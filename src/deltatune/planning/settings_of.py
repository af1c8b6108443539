"""From advice to the settings of a run that ``deltatune train`` takes."""

from __future__ import annotations

from typing import Any

import yaml

from deltatune.errors import ConfigError
from deltatune.methods.written import FULL, WHOLE
from deltatune.planning.advice import Advice, Option
from deltatune.planning.rates import start_rate
from deltatune.planning.rules import route_of
from deltatune.sizes import size_text
from deltatune.train.config_file import parse_config

__all__ = ["run_settings"]


def run_settings(advice: Advice, *, data: str, output: str, option: Option | None = None) -> str:
    """The settings of a run as YAML, with the reasons as comments.

    Args:
        advice: what was advised.
        data: the training data, a path.
        output: the run's folder.
        option: which of the options. Default: the best.

    Raises:
        ConfigError: nothing that can be trained so was advised.
    """
    chosen = option or advice.best
    if chosen is None or chosen.row is None or chosen.row.cost is None or chosen.excluded is not None:
        raise ConfigError(
            "advice: expected a method that is attached to the base, found none; change what is asked for"
        )
    plan, changes = advice.plan, chosen.row.changes
    changed = {name: value for change in changes for name, value in change.settings.items()}
    settings = {name: changed.get(name, getattr(plan.settings, name)) for name in _USED}
    base: dict[str, Any] = {"model": plan.source, "task": plan.task, "dtype": settings["dtype"]}
    if settings["quant"]:
        base["quant"] = settings["quant"]
    delta = dict(WHOLE) if chosen.label == FULL else dict(chosen.method)
    delta |= {name: value for change in changes for name, value in change.method.items()}
    train: dict[str, Any] = {
        "learning_rate": start_rate(str(chosen.method["method"]), plan.parameters),
        "batch_size": max(1, settings["batch_tokens"] // plan.settings.seq_len),
        "gradient_accumulation": settings["accumulation"],
        "optimizer": settings["optimizer"],
    }
    if settings["checkpointing"]:
        train |= {"gradient_checkpointing": True} if plan.room is None else {"memory_budget": plan.room}
    length = {"train": data, "eval_share": 0.1, "max_length": plan.settings.seq_len}
    run = {"base": base, "delta": _plain(delta), "data": length, "train": train, "output": output}
    parse_config(run)
    return _comments(chosen, advice) + yaml.safe_dump(run, sort_keys=False, allow_unicode=True)


_USED = ("dtype", "quant", "batch_tokens", "accumulation", "optimizer", "checkpointing")


def _plain(delta: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in delta.items()}


def _comments(option: Option, advice: Advice) -> str:
    assert option.row is not None
    assert option.row.cost is not None
    peak = option.row.changes[-1].total if option.row.changes else option.row.cost.total
    route = route_of(str(option.method["method"]))
    lines = [f"{option.label} ({route}), because:", *(f"  {reason}" for reason in option.reasons)]
    lines += [f"{option.row.cost.trainable:,} trained parameters, {size_text(peak)} at the peak of a step"]
    if option.label == FULL:
        lines += [
            "That is what full fine-tuning takes by itself. As a delta it keeps the base beside it, which takes a copy",
            "of the weights more: deltatune train --dry-run tells how much.",
        ]
    lines += ["The learning rate is one to begin with: deltatune compare --search finds a better one."]
    return "".join(f"# {line}\n" for line in lines)
