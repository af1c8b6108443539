"""A base by its shapes: the model with everything but its weights, on the meta device."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn

from deltatune.attachment.summary import base_size
from deltatune.io.bases import TASKS, Dtype, Quant, check_choice, read_config, task_of
from deltatune.io.quantised import precise_modules, quantise
from deltatune.planning.presets import PRESETS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Shape", "shape_of"]

CLASSIFIED = ("feature-extraction", "masked-lm")
"""What a base was made for, if it is trained to classify sequences."""


@dataclass(frozen=True)
class Shape:
    """A base without weights."""

    model: nn.Module
    name: str
    source: str
    """What ``load_base`` takes for it."""
    task: str
    dtype: torch.dtype
    quant: Quant | None

    @property
    def parameters(self) -> int:
        """How many numbers the base holds."""
        return base_size(self.model)

    @property
    def dtype_name(self) -> Dtype:
        """Such as ``float32``."""
        return str(self.dtype).removeprefix("torch.")  # type: ignore[return-value]

    @property
    def layers(self) -> int:
        """How many layers it has, of an encoder-decoder in the encoder."""
        config: Any = self.model.config
        return int(config.num_hidden_layers)


def shape_of(
    base: str | PretrainedConfig,
    *,
    task: str = "auto",
    dtype: Dtype = "auto",
    quant: Quant | None = None,
    num_labels: int | None = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Shape:
    """The shape of a base.

    Args:
        base: a key of ``PRESETS``, whatever ``load_base`` takes, or a config. Of a hub id only the config is fetched.
        task: what it is trained for. Default "auto": what it was made for, and sequence classification for an encoder.
        dtype: of the weights. Default: as they are stored.
        quant: as for ``load_base``.
        num_labels: how many classes a classification head has. Default: as the config says, or 2.
        attn_implementation: as for ``load_base``.
        revision: of a hub id.
        trust_remote_code: run the Python code that comes with the model. Default: refuse it.

    Raises:
        ConfigError: there is no such base, or it can not do the task.
        DeltaError: a package is missing, or the hub can not be reached.
    """
    import transformers

    check_choice("task", task, ("auto", *TASKS))
    check_choice("dtype", dtype, get_args(Dtype))
    check_choice("quant", quant, (None, *get_args(Quant)))
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    if not isinstance(base, str):
        config, name = copy.deepcopy(base), getattr(base, "name_or_path", "") or type(base).__name__
    elif base in PRESETS:
        config, name = _preset(base), base
    else:
        config, name = read_config(base, **hub), base  # type: ignore[arg-type]
    if task == "auto":
        task = task_of(config, name)
        task = "sequence-classification" if task in CLASSIFIED else task
    if num_labels is not None:
        config.num_labels = num_labels
    stored: Any = config.dtype or torch.float32
    kind: torch.dtype = stored if dtype == "auto" else getattr(torch, dtype)
    settings: dict[str, Any] = {"dtype": kind, "attn_implementation": attn_implementation}
    if trust_remote_code:
        settings["trust_remote_code"] = True
    with torch.device("meta"):
        model = getattr(transformers, TASKS[task].loader).from_config(config, **settings)
    if kind is torch.float16:  # loading makes them so
        names = precise_modules(model)
        for module in [each for name, each in model.named_modules() if name.rpartition(".")[2] in names]:
            module.float()
    if quant is not None:
        quantise(model, quant)
    source = PRESETS[name].source if name in PRESETS else name
    return Shape(model.eval(), name, source, task, kind, quant)


def _preset(name: str) -> PretrainedConfig:
    import transformers

    preset = PRESETS[name]
    config: PretrainedConfig = getattr(transformers, preset.kind)(**preset.settings, dtype=preset.dtype)
    config.architectures = [preset.architecture]
    return config
