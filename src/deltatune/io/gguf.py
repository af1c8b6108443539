"""GGUF files: dequantised once, into an ordinary model folder in the user's cache.

Every later load reads that folder, in under a second, and whatever works on a folder (another task, quantisation)
works on a GGUF file too.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from deltatune.errors import ConfigError, DeltaError, first_line
from deltatune.io.cache import cache_folder
from deltatune.io.quiet import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["dequantised"]

CACHE_FORMAT = 1
"""Goes up when the same file should be dequantised anew."""


def dequantised(gguf: Path) -> Path:
    """The folder in the cache that holds the model of a GGUF file; made if it is not there. It is safe to delete."""
    folder = cache_folder() / f"{gguf.stem}-{_digest(gguf)}"
    if folder.is_dir():
        return folder
    require("gguf", f"base {str(gguf)!r}")
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar knows no setting
        model, tokenizer = _read_gguf(gguf)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
            whole = Path(scratch, folder.name)
            model.save_pretrained(whole)
            tokenizer.save_pretrained(whole)
            _put(whole, folder)
    except (OSError, SafetensorError) as error:
        hint = "set DELTATUNE_CACHE to a folder that can hold it"
        raise DeltaError(f"cache {folder.parent}: can not be written ({first_line(error)}); {hint}") from None
    return folder


def _put(whole: Path, folder: Path) -> None:
    try:
        os.replace(whole, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same content
            raise


def _digest(gguf: Path) -> str:
    import transformers

    # All of the content: two fine-tunes can share name, size, head and tail. 100 MB take 60 ms.
    digest = hashlib.sha256(f"{CACHE_FORMAT} {transformers.__version__}".encode())
    with gguf.open("rb") as file:
        if (magic := file.read(4)) != b"GGUF":
            raise ConfigError(f"base {str(gguf)!r}: expected a GGUF file, found one that begins with {magic!r}")
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import transformers

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    config = transformers.AutoConfig.from_pretrained(**where)
    kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
    loader = getattr(transformers, kind)
    model, info = loader.from_pretrained(**where, dtype="float32", output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(f"base {str(gguf)!r}: expected a whole model, found no weights for {missing[0]}; get it anew")
    # It is dense now, but can not be saved while it says that it is quantised.
    vars(model).pop("hf_quantizer", None)
    vars(model.config).pop("quantization_config", None)
    model.is_quantized = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    _restore_digits(tokenizer, gguf)
    return model, tokenizer


def _restore_digits(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """Let a tokenizer that splits numbers into digits do so: transformers does not read that from a GGUF file."""
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import Digits
    from tokenizers.pre_tokenizers import Sequence as Both

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = Both([Digits(individual_digits=True), backend.pre_tokenizer])
