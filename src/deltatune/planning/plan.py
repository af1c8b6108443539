"""What training takes with each method, before a weight is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deltatune.errors import ConfigError, DeltaError
from deltatune.io.bases import Dtype, Quant
from deltatune.methods import METHODS, as_method, from_config
from deltatune.methods.base import Method
from deltatune.methods.written import FULL
from deltatune.planning.cost import Cost, cost_of
from deltatune.planning.fitting import Change, changes_to_fit
from deltatune.planning.optimizers import optimizer as known_optimizer
from deltatune.planning.settings import Device, Settings
from deltatune.planning.shapes import Shape, shape_of
from deltatune.sizes import parse_size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Plan", "Row", "plan"]

RESERVE = "1GB"
"""What drivers, kernels' workspaces and an allocator's rounding take beside tensors; a usual figure, not counted."""


@dataclass(frozen=True)
class Row:
    """What came of planning one method."""

    label: str
    """The method's key, and what of its settings differs from its defaults."""
    cost: Cost | None
    error: str | None = None
    """Why it can not be attached, if there is no cost."""
    fits: bool | None = None
    """Whether it fits into the memory asked for; ``None``: none was."""
    changes: tuple[Change, ...] = ()
    """What to change so that it does, the cheapest first; none if it fits, or if nothing is enough."""


@dataclass(frozen=True)
class Plan:
    """What training takes with each method."""

    base: str
    source: str
    """What ``load_base`` takes for it."""
    task: str
    parameters: int
    """How many numbers the base has."""
    layers: int
    settings: Settings
    memory: int | None
    """Bytes of the device. ``None``: not asked for."""
    reserve: int
    """Bytes of it that are kept free."""
    rows: tuple[Row, ...]

    @property
    def room(self) -> int | None:
        """Bytes that a step may take. ``None``: not asked for."""
        return None if self.memory is None else self.memory - self.reserve

    def to_dict(self) -> dict[str, Any]:
        """As plain data, sizes in bytes."""
        return {
            "base": self.base,
            "task": self.task,
            "parameters": self.parameters,
            "settings": dataclasses.asdict(self.settings),
            "memory": self.memory,
            "reserve": self.reserve,
            "methods": [_plain(row) for row in self.rows],
        }


def plan(
    base: str | PretrainedConfig,
    *,
    methods: Iterable[str | Method | Mapping[str, Any]] | None = None,
    task: str = "auto",
    num_labels: int | None = None,
    seq_len: int = 512,
    batch_tokens: int = 2048,
    shared: int = 0,
    learned: float = 0.5,
    accumulation: int = 1,
    dtype: Dtype = "auto",
    quant: Quant | None = None,
    optimizer: str = "adamw_torch_fused",
    checkpointing: bool = False,
    savings: bool = True,
    device: Device = "cuda",
    device_memory: int | str | None = None,
    reserve: int | str = RESERVE,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Plan:
    """Tell what training takes with each method, and what to change where it does not fit.

    A step of the real training path is run on tensors without data, so the figures are counts of what that code makes
    and keeps, down to the temporary tensors; see ``docs/planning.md`` for how near they come to what is measured.

    Args:
        base: a well-known base such as ``llama2-7b`` (``deltatune.planning.presets`` has them), whatever ``load_base``
            takes, or a config. Of a hub id only the config is fetched.
        methods: keys, methods, their settings as plain data, or ``"full"`` for the base trained whole. Default: full,
            and every method that has defaults.
        task: what for, a key of ``TASKS``. Default: what the base was made for; an encoder classifies sequences.
        num_labels: how many classes. Default: as the config says, or 2.
        seq_len: tokens of a text. Default: 512.
        batch_tokens: tokens of a batch, on each device. Default: 2048.
        shared: how many tokens all texts begin with alike. Default: 0.
        learned: the share of a text that has labels. Default: a half.
        accumulation: batches a step. Default: 1.
        dtype: of the base's weights. Default: as they are stored.
        quant: hold the base in 4 or 8 bits, as ``load_base`` does. Default: no.
        optimizer: by its name in the settings of a run. Default: AdamW.
        checkpointing: run layers again in backward in place of keeping their tensors. Default: no.
        savings: train as ``dt.Trainer`` does. False: padded rows and the model's own loss. Default: true.
        device: what runs it: kernels differ in what they keep. Default: a GPU.
        device_memory: what a device has, such as ``"24GiB"``. Default: not asked.
        reserve: how much of that to leave free. Default: 1 GB.
        attn_implementation: as for ``load_base``.
        revision: of a hub id.
        trust_remote_code: run the Python code that comes with the model. Default: refuse it.

    Raises:
        ConfigError: a setting is out of range, or there is no such base or method.
        DeltaError: a package is missing, or the hub can not be reached.
    """
    settings = Settings(
        seq_len=seq_len,
        batch_tokens=batch_tokens,
        shared=shared,
        learned=learned,
        accumulation=accumulation,
        dtype=dtype,
        quant=quant,
        optimizer=optimizer,
        checkpointing=checkpointing,
        savings=savings,
        device=device,
    )
    known_optimizer(optimizer)
    memory = None if device_memory is None else parse_size(device_memory, "device_memory")
    kept_free = parse_size(reserve, "reserve")
    chosen = _all() if methods is None else [_method(each) for each in methods]
    shapes = _Shapes(
        base,
        task=task,
        num_labels=num_labels,
        attn_implementation=attn_implementation,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    shape = shapes.of(settings)
    settings = dataclasses.replace(settings, dtype=shape.dtype_name)
    rows = tuple(_row(shapes, method, settings, memory, kept_free) for method in chosen)
    return Plan(
        base=shape.name,
        source=shape.source,
        task=shape.task,
        parameters=shape.parameters,
        layers=shape.layers,
        settings=settings,
        memory=memory,
        reserve=kept_free,
        rows=rows,
    )


class _Shapes:
    """The shapes of one base, each made once."""

    def __init__(self, base: str | PretrainedConfig, **how: Any) -> None:
        self.base, self.how = base, how
        self.made: dict[tuple[str, str | None], Shape] = {}

    def of(self, settings: Settings) -> Shape:
        """In the precision of the settings."""
        kind = (settings.dtype, settings.quant)
        if kind not in self.made:
            self.made[kind] = shape_of(self.base, dtype=settings.dtype, quant=settings.quant, **self.how)
        return self.made[kind]


def _all() -> list[Method | None]:
    made: list[Method | None] = [None]
    for key in METHODS:
        with contextlib.suppress(ConfigError):  # one that can not do without settings
            made.append(from_config({"method": key}))
    return made


def _method(given: str | Method | Mapping[str, Any]) -> Method | None:
    if given == FULL:
        return None
    return from_config({"method": given}) if isinstance(given, str) else as_method(given)


def _row(shapes: _Shapes, method: Method | None, settings: Settings, memory: int | None, reserve: int) -> Row:
    known: dict[tuple[str, Settings], Cost] = {}

    def cost(method: Method | None, settings: Settings) -> Cost:
        of = (FULL if method is None else _label(method), settings)
        if of not in known:
            known[of] = cost_of(shapes.of(settings), method, **settings.of_cost())
        return known[of]

    label = FULL if method is None else _label(method)
    try:
        found = cost(method, settings)
    except DeltaError as error:
        return Row(label, None, error=str(error))
    if memory is None:
        return Row(label, found)
    room = memory - reserve
    if found.total <= room:
        return Row(label, found, fits=True)
    return Row(label, found, fits=False, changes=changes_to_fit(cost, method, settings, found, room))


def _label(method: Method) -> str:
    settings = {name: value for name, value in method.to_config().items() if name != "method"}
    return " ".join([method.key, *(f"{name}={_short(value)}" for name, value in settings.items())])


def _short(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _plain(row: Row) -> dict[str, Any]:
    if row.cost is None:
        return {"method": row.label, "error": row.error}
    cost = row.cost
    sizes = ("weights", "gradients", "optimizer", "activations", "temporary", "total", "file")
    return {
        "method": row.label,
        "settings": cost.settings,
        "trainable": cost.trainable,
        "share": cost.share,
        **{name: getattr(cost, name) for name in sizes},
        "moment": cost.moment,
        "operations": cost.operations,
        "fits": row.fits,
        "changes": [{"change": change.text, "price": change.price, "total": change.total} for change in row.changes],
    }
