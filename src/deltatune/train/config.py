"""The settings of a training run, as the command line reads them from YAML; checked before anything is loaded.

Nothing here imports torch: only checking the settings of a method does, since the method knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from deltatune.io.bases import Dtype, Quant
from deltatune.train.encode import Overflow
from deltatune.train.formats import FORMATS

if TYPE_CHECKING:
    from deltatune.methods.base import Method
    from deltatune.packing.settings import Packing

__all__ = [
    "NO_DELTA",
    "SHORT",
    "BaseSpec",
    "DataSpec",
    "DeltaSpec",
    "PackingSpec",
    "RunConfig",
    "Section",
    "Share",
    "Task",
    "Text",
    "TrainSpec",
    "Whole",
]

Task: TypeAlias = Literal["auto", "causal-lm", "seq2seq-lm", "sequence-classification"]

SHORT = {"base": "model", "delta": "method", "data": "train"}
"""Sections that may be written as plain text, and the setting that the text then is: `base: smollm2`."""


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise PydanticCustomError("format", "unknown")
    return name


FormatName: TypeAlias = Annotated[
    str, AfterValidator(_known_format), WithJsonSchema({"type": "string", "enum": list(FORMATS)})
]
Whole: TypeAlias = Annotated[int, Field(ge=1)]
Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]


NO_DELTA = "delta: expected what to attach, found nothing; add delta: {method: lora}"


class Section(BaseModel):
    """Some settings of a YAML file, which has no others there."""

    # Strict: YAML has numbers and booleans of its own, so text in their place is a slip.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class BaseSpec(Section):
    """The pretrained model. See `deltatune.load_base`."""

    model: Text
    """A model folder, a GGUF file, a hub id, or an alias such as smollm2."""
    task: Task = "auto"
    """What the model is loaded for. auto: classification if the data have labels, else what the model was made for."""
    dtype: Dtype = "auto"
    """The dtype of the frozen weights. auto: as they are stored."""
    quant: Quant | None = None
    """Hold the frozen weights in 4 or 8 bits. null: not quantised."""
    device: Literal["auto", "cpu"] | None = None
    """cpu; or auto, to spread the model over all GPUs. null: the GPU if there is one, each process its own."""
    revision: str | None = None
    """A branch, tag or commit on the hub. null: the main branch."""
    attn_implementation: str | None = None
    """eager, sdpa, flash_attention_2 and the like. null: the best one the model supports."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model."""
    offload: bool = False
    """Read layers from the model's files when it is their turn, for a base larger than memory. On the CPU, on Linux."""


class DeltaSpec(BaseModel):
    """What to attach: a method, and its own settings beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    method: Text
    """The method, such as lora."""
    name: Annotated[str, Field(pattern=r"^[^./\\]+$")] = "default"
    """How to call the delta; it names its folder."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: Any) -> Any:
        return {SHORT["delta"]: data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _check_settings(self) -> DeltaSpec:
        from deltatune.train.method_settings import setting_faults

        if faults := setting_faults(self.method, self.settings):
            raise PydanticCustomError("settings", "bad settings", {"faults": faults})
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The method's own settings that were given."""
        return dict(self.model_extra or {})

    def build(self) -> Method:
        """The method."""
        from deltatune.methods import from_config

        return from_config({"method": self.method, **self.settings})


class DataSpec(Section):
    """What to learn from. Paths are relative to the folder the command runs in."""

    train: Text
    """The training data: .jsonl, .json, .csv, .tsv or .parquet."""
    eval: str | None = None
    """Data to evaluate on. null: none, or a share of the training data."""
    eval_share: Share = 0.0
    """Keep this share of the training data for evaluation instead; which examples, train.seed decides."""
    format: FormatName | None = None
    """How a record is laid out. null: told from its fields."""
    columns: dict[str, str] = {}
    """Your names for our fields, such as {prompt: question}."""
    labels: Annotated[tuple[str, ...], Field(min_length=2, strict=False)] | None = None
    """The classes, in the order of their ids. null: those found in the training data, sorted."""
    max_length: Whole | None = None
    """Tokens an example may have. null: the tokenizer's own limit, or the model's."""
    on_overflow: Overflow = "truncate"
    """What to do with a longer example: cut it, leave it out, or refuse the data."""
    chat: Literal["auto"] | bool = "auto"
    """Render prompt and completion through the chat template. auto: if the tokenizer has one."""
    limit: Whole | None = None
    """Use only the first so many records of each file, to try things out. null: all."""

    @model_validator(mode="after")
    def _one_source_of_evaluation(self) -> DataSpec:
        if self.eval and self.eval_share:
            raise _contradiction("expected data.eval or data.eval_share, found both; remove one")
        return self


Scheduler: TypeAlias = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
]
Optimizer: TypeAlias = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_8bit",
    "paged_lion_8bit",
    "adafactor",
    "rmsprop",
    "sgd",
    "adagrad",
]


class PackingSpec(Section):
    """How batches without padding are made. See `deltatune.Packing`."""

    max_tokens: Whole | None = None
    """Tokens a batch may have on each device, shared ones once; counts in place of batch_size. null: batch_size."""
    share: bool = True
    """Run what examples begin with alike only once."""
    group: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far to put examples that begin alike together: 0, random order; 1, wherever there are any."""
    least: Whole = 16
    """Tokens that examples must begin with alike for it to count."""
    z_loss: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the squared logarithm of the softmax's denominator in the loss."""

    def build(self) -> Packing:
        """The settings as the trainer takes them."""
        from deltatune.packing.settings import Packing

        return Packing(**self.model_dump())


class TrainSpec(Section):
    """How to train. Anything else `transformers.TrainingArguments` has goes under `extra`."""

    epochs: Annotated[float, Field(gt=0)] = 3
    """Passes over the training data."""
    max_steps: Whole | None = None
    """Optimiser steps; counts in place of epochs. null: as many as the epochs take."""
    batch_size: Whole = 8
    """Examples in a batch, on each device."""
    eval_batch_size: Whole | None = None
    """The same for evaluation. null: as batch_size."""
    gradient_accumulation: Whole = 1
    """Batches that make one optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """The highest learning rate."""
    scheduler: Scheduler = "cosine"
    """How the learning rate goes on after the warm-up. Those that need settings go under extra."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0.03
    """Steps in which the learning rate rises; below 1, a share of all steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay, on matrices only."""
    optimizer: Optimizer = "adamw_torch"
    """The optimiser."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the gradient to this norm; 0: do not."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Of the start of the delta, the order of the data, dropout and the split."""
    packing: PackingSpec | bool | None = None
    """Batches without padding, in which what examples share runs once. null: where the model can; false: never."""
    cache_trunk: bool = False
    """Keep on disk what the layers below all deltas answer, so that each text runs through them once."""
    memory_budget: str | Whole | None = None
    """What a step may take, such as 16GiB: checkpoint as many layers as that asks for. null: no matter."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    precision: Literal["full", "bf16", "fp16"] = "full"
    """Mixed precision by autocast. full: everything in the dtype of the base."""
    compile: bool = False
    """Compile the layers with torch.compile, at the first step, which then takes minutes."""
    logging_steps: Whole = 10
    """Log every so many steps; the first and the last step are logged too."""
    save_steps: Whole | None = None
    """Write a checkpoint every so many steps. null: after each epoch."""
    eval_steps: Whole | None = None
    """Evaluate every so many steps. null: after each epoch. Without evaluation data: never."""
    save_total_limit: Whole | None = None
    """Keep only the last so many checkpoints. null: all."""
    report_to: str | Annotated[tuple[str, ...], Field(strict=False)] = "none"
    """Trackers to log to, such as tensorboard or [tensorboard, wandb]."""
    extra: dict[str, Any] = {}
    """Passed to `transformers.TrainingArguments` as it is, over all of the above."""


class RunConfig(Section):
    """A training run: which base, what to attach, which data, how to train, where to."""

    base: BaseSpec
    """The pretrained model; plain text is its `model`."""
    delta: DeltaSpec | None = None
    """What to attach; plain text is its `method`."""
    deltas: Annotated[tuple[DeltaSpec, ...], Field(strict=False)] | None = None
    """Several to stack, in place of `delta`; each needs a name of its own."""
    data: DataSpec
    """What to learn from; plain text is its `train`."""
    train: TrainSpec = TrainSpec()
    """How to train."""
    output: Text
    """The run's folder: final/, checkpoint-N/, log.jsonl, metrics.json, loss.png, config.yaml."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        sections = {name: {SHORT[name]: data[name]} for name in ("base", "data") if isinstance(data.get(name), str)}
        return {**data, **sections}

    @model_validator(mode="after")
    def _check_deltas(self) -> RunConfig:
        if self.delta is not None and self.deltas is not None:
            raise _contradiction("expected delta or deltas, found both; remove one")
        if not self.attached:
            raise _contradiction(NO_DELTA)
        names = [spec.name for spec in self.attached]
        for name in {name for name in names if names.count(name) > 1}:
            raise _contradiction(f"deltas: expected a name for each, found {name!r} twice; set name")
        return self

    @property
    def attached(self) -> tuple[DeltaSpec, ...]:
        """The deltas to attach, in order."""
        return (self.delta,) if self.delta is not None else self.deltas or ()


def _contradiction(message: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{message}", {"message": message})
