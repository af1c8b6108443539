"""Which method to take: a ranking with its reasons, and with the figures of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltatune.errors import ConfigError
from deltatune.io.bases import Dtype, Quant
from deltatune.methods import METHODS, from_config
from deltatune.methods.written import FULL
from deltatune.planning.plan import RESERVE, Plan, Row, plan
from deltatune.planning.rules import RULES, Candidate, Rule, Situation
from deltatune.planning.settings import Device
from deltatune.planning.traits import stand_in, traits
from deltatune.sizes import size_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Advice", "Option", "Reason", "advise"]

PROXY = "proxy"
"""Proxy-tuning, which attaches nothing to the base."""

VARIANTS: tuple[dict[str, Any], ...] = ({"method": "lora", "r": 16, "targets": ["all_linear"]},)
"""What is weighed beside each method with its defaults."""

TIGHT = 0.9
"""LoRA fits just so if it takes more than this share of the room."""


@dataclass(frozen=True)
class Reason:
    """A rule that speaks for a method, against it, or rules it out."""

    rule: str
    says: str
    source: str
    points: int

    def __str__(self) -> str:
        return f"{self.points:+d}  {self.says} ({self.source})"


@dataclass(frozen=True)
class Option:
    """A method that could be taken, and what is to be said of it."""

    label: str
    method: Mapping[str, Any]
    """As plain data: its key under ``method``, and its settings."""
    score: int
    reasons: tuple[Reason, ...]
    row: Row | None
    """Its row of the plan; none for proxy-tuning."""
    excluded: str | None = None
    """Why it can not be taken, in a line; ``None`` if it can."""


@dataclass(frozen=True)
class Advice:
    """Methods, the best first; those that can not be taken at the end."""

    situation: Situation
    plan: Plan
    options: tuple[Option, ...]

    @property
    def best(self) -> Option | None:
        """The first that can be taken."""
        return next((option for option in self.options if option.excluded is None), None)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        rows = {row["method"]: row for row in self.plan.to_dict()["methods"]}
        return {
            "base": self.plan.base,
            "situation": dataclasses.asdict(self.situation),
            "plan": {name: value for name, value in self.plan.to_dict().items() if name != "methods"},
            "options": [
                {
                    "method": dict(option.method),
                    "label": option.label,
                    "score": option.score,
                    "excluded": option.excluded,
                    "reasons": [dataclasses.asdict(reason) for reason in option.reasons],
                    "figures": rows.get(option.label),
                }
                for option in self.options
            ],
        }


def advise(
    base: str | PretrainedConfig,
    *,
    task: str = "auto",
    examples: int | None = None,
    tasks: int = 1,
    merged: bool = False,
    reachable: bool = True,
    device: Device = "cuda",
    device_memory: int | str | None = None,
    seq_len: int = 512,
    batch_tokens: int = 2048,
    dtype: Dtype = "auto",
    quant: Quant | None = None,
    reserve: int | str = RESERVE,
    num_labels: int | None = None,
) -> Advice:
    """Rank the methods for a situation.

    Args:
        base: as for :func:`deltatune.planning.plan.plan`.
        task: as there.
        examples: how many there are to learn from. Default: not told, and then no rule about it holds.
        tasks: how many share the base where it is used. Default: 1.
        merged: whether what is used has to be a plain model. Default: no.
        reachable: whether the base's weights are; if not, only its answers. Default: yes.
        device: what trains it. Default: a GPU.
        device_memory: what a device has for training. Default: as much as it takes.
        seq_len: tokens of a text. Default: 512.
        batch_tokens: tokens of a batch. Default: 2048.
        dtype: of the base's weights. Default: as they are stored.
        quant: hold the base in 4 or 8 bits. Default: no.
        reserve: of the memory, what to leave free. Default: 1 GB.
        num_labels: classes of a classifier. Default: as the config says, or 2.

    Raises:
        ConfigError: a setting is out of range, or there is no such base.
        DeltaError: a package is missing, or the hub can not be reached.
    """
    for name, value in (("tasks", tasks), ("examples", examples)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected at least 1, found {value}; change it")
    methods: list[str | Mapping[str, Any]] = [FULL, *_methods()]
    found = plan(
        base,
        methods=methods,
        task=task,
        seq_len=seq_len,
        batch_tokens=batch_tokens,
        dtype=dtype,
        quant=quant,
        device=device,
        device_memory=device_memory,
        reserve=reserve,
        num_labels=num_labels,
    )
    situation = Situation(
        parameters=found.parameters,
        task=found.task,
        examples=examples,
        tasks=tasks,
        merged=merged,
        reachable=reachable,
        quant=quant,
        is_tight=_is_tight(found),
    )
    holding = [rule for rule in RULES if rule.when(situation)]
    candidates = _candidates(found, methods)
    options = [_option(candidate, row, holding) for candidate, row in candidates]
    return Advice(situation, found, tuple(sorted(options, key=_rank)))


def _methods() -> list[dict[str, Any]]:
    """What is weighed: each method with its defaults, if it has them, and the variants."""
    made = []
    for settings in (*({"method": key} for key in METHODS), *VARIANTS):
        try:
            made.append(from_config(settings).to_config())
        except ConfigError:  # it can not do without settings
            continue
    return made


def _is_tight(found: Plan) -> bool:
    lora = next(row.cost for row in found.rows if row.label == "lora")
    return found.room is not None and lora is not None and lora.total > TIGHT * found.room


def _candidates(found: Plan, methods: Sequence[str | Mapping[str, Any]]) -> Iterable[tuple[Candidate, Row | None]]:
    model = stand_in(found.task)
    for row, given in zip(found.rows, methods, strict=True):
        if isinstance(given, str):  # all weights: a plain model by itself, but one for each task
            yield Candidate(FULL, {}, merges=True, routes=False), row
            continue
        settings = dict(given)
        key, tried = str(settings.pop("method")), traits(model, from_config(given))
        merges, routes = (True, True) if tried is None else tried
        yield Candidate(key, settings, merges, routes), row
    yield Candidate(PROXY, {}, merges=False, routes=True), None


def _option(candidate: Candidate, row: Row | None, rules: Sequence[Rule]) -> Option:
    reasons = [Reason(rule.name, rule.says, rule.source, rule.points(candidate)) for rule in rules]
    reasons = [reason for reason in reasons if reason.points]
    fitting = None if row is None else _of_fit(row)
    if fitting is not None:
        reasons.append(fitting)
    return Option(
        label=PROXY if row is None else row.label,
        method={"method": candidate.key, **candidate.settings},
        score=sum(reason.points for reason in reasons),
        reasons=tuple(sorted(reasons, key=lambda reason: -reason.points)),
        row=row,
        excluded=_excluded(candidate, row, rules),
    )


def _of_fit(row: Row) -> Reason | None:
    if not row.changes:
        return None
    changes = "; ".join(change.text for change in row.changes)
    source = f"counted: {size_text(row.changes[-1].total)} then; `deltatune plan` shows it"
    return Reason("fits with changes", f"fits only with changes: {changes}", source, -len(row.changes))


def _excluded(candidate: Candidate, row: Row | None, rules: Sequence[Rule]) -> str | None:
    for rule in rules:
        if rule.excludes(candidate):
            return f"{rule.says} ({rule.source})"
    if row is not None and row.error is not None:
        return row.error
    if row is not None and row.fits is False and not row.changes:
        return f"does not fit, whatever is changed: {size_text(row.cost.total)}" if row.cost else "does not fit"
    return None


def _rank(option: Option) -> tuple[bool, int, int]:
    """Those that can be taken first, then by points, then by memory."""
    cost = None if option.row is None else option.row.cost
    return option.excluded is not None, -option.score, 0 if cost is None else cost.total
