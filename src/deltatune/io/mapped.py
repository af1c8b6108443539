"""A base larger than memory: the weights stay in their files, and only the layers at work are held in memory.

``transformers`` maps the weights of safetensors files: a page of memory is filled from the disk when it is first read,
and stays from then on. Here a layer that begins, forward or backward, gives back the pages of the layer before it and
has the system read those of the next one ahead of time. What is given back costs a read from the file (or from the
system's cache of it) when it is needed again, and nothing else: the parameters stay where they are and are the same.

A page that has been written to, as by a merge by hand, is no longer the file's. It is never given back.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deltatune.errors import ConfigError, DeltaError

__all__ = ["is_mapped", "offload", "reading_once"]

PAGE = mmap.PAGESIZE
PAGEMAP = "/proc/self/pagemap"
"""Eight bytes a page of this process; see ``Documentation/admin-guide/mm/pagemap.rst`` of Linux for their bits."""
PRESENT, SWAPPED, OF_FILE = 63, 62, 61


def offload(model: nn.Module) -> None:
    """Hold only the layers at work in memory from now on; the others are read from the model's files in their turn.

    Layers are the entries of the model's outermost ``nn.ModuleList`` s. Embeddings, head and what else lies outside of
    them stay in memory once used. Results are the same, bit for bit. Train with gradient checkpointing, which bounds
    the activations too.

    Args:
        model: a model whose layers are mapped from safetensors files, as ``from_pretrained`` leaves them on the CPU.

    Raises:
        DeltaError: the system is not Linux, or hides which pages of a process are in memory.
        ConfigError: a layer's weights are not as they lie in a file: converted, quantised or moved.
    """
    if not _shows_pages():
        raise DeltaError(f"offload: expected Linux with {PAGEMAP}, found {sys.platform} without; load without offload")
    layers = list(_layers(model))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        if _whole_pages(parameter) and not is_mapped(parameter):
            raise ConfigError(
                f"offload: expected weights as they lie in their file, found {names[id(parameter)]} converted to "
                f"{str(parameter.dtype).removeprefix('torch.')} or moved; leave dtype, quant and device out"
            )
    for layer in layers:
        _release(*layer.parameters())
    _Turns(layers).hook()


def reading_once() -> contextlib.AbstractContextManager[object]:
    """Within this context what reads a large mapped tensor leaves none of its pages in memory, under Linux.

    For a base that is quantised while it is loaded: it never is in memory as it lies in its files.
    """
    return _ReadOnce() if _shows_pages() else contextlib.nullcontext()


class _ReadOnce(TorchFunctionMode):
    LARGE = 256
    """Pages, one megabyte: what is smaller is not worth the asking."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in args:
            if isinstance(tensor, Tensor) and len(_whole_pages(tensor)) >= self.LARGE:
                _release(tensor)
        return result


def is_mapped(tensor: Tensor) -> bool:
    """Whether the memory of a tensor, as far as it fills whole pages, is that of a file and unchanged."""
    pages = _whole_pages(tensor)
    if not pages or tensor.device.type != "cpu":
        return False
    tensor.detach().reshape(-1)[tensor.numel() // 2].item()  # a page says what it is once it has been read
    flags = _flags(pages)
    return _is_unchanged(flags) and bool(_bit(flags, OF_FILE).any())


def _shows_pages() -> bool:
    """Whether the system tells a process which of its pages are in memory."""
    return sys.platform == "linux" and os.access(PAGEMAP, os.R_OK)


class _Turns:
    """Whose turn it is among layers that run one after the other, forward and then back."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers
        self.at = 0

    def hook(self) -> None:
        for i, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(partial(self._before, i))
            layer.register_forward_hook(partial(self._after, i))

    def _before(self, i: int, *_: Any) -> None:
        self.enter(i)

    def _after(self, i: int, module: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(partial(self._before, i))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def enter(self, i: int) -> None:
        """Let layer ``i`` take its turn, and read ahead in the direction in which the turns go."""
        if i == self.at:
            return
        _release(*self.layers[self.at].parameters())
        ahead = i + 1 if i > self.at else i - 1
        self.at = i
        if 0 <= ahead < len(self.layers):
            _read_ahead(*self.layers[ahead].parameters())


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The entries of the outermost lists of modules."""
    for child in module.children():
        yield from child if isinstance(child, nn.ModuleList) else _layers(child)


def _release(*tensors: Tensor) -> None:
    """Give back the pages of tensors, where they are as they lie in a file."""
    for pages in map(_whole_pages, tensors):
        if pages and _is_unchanged(_flags(pages)):
            _advise(pages, mmap.MADV_DONTNEED)


def _read_ahead(*tensors: Tensor) -> None:
    for pages in map(_whole_pages, tensors):
        if pages:
            _advise(pages, mmap.MADV_WILLNEED)


# Pages. A range of numbers stands for consecutive pages of the process; page n begins at address n * PAGE.


def _whole_pages(tensor: Tensor) -> range:
    """The pages that hold nothing but this tensor; those at its ends it may share."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return range(0)
    start = tensor.data_ptr()
    return range(-(-start // PAGE), (start + tensor.nbytes) // PAGE)


def _flags(pages: range) -> Tensor:
    """What the system notes of each page: ``[pages]``, int64."""
    with open(PAGEMAP, "rb", buffering=0) as file:
        file.seek(8 * pages.start)
        return torch.frombuffer(bytearray(file.read(8 * len(pages))), dtype=torch.int64)


def _bit(flags: Tensor, number: int) -> Tensor:
    return (flags >> number & 1).bool()


def _is_unchanged(flags: Tensor) -> bool:
    """Whether no page holds anything that is not in a file."""
    kept = _bit(flags, PRESENT) | _bit(flags, SWAPPED)
    return not bool((kept & ~_bit(flags, OF_FILE)).any())


def _advise(pages: range, advice: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(pages.start * PAGE), ctypes.c_size_t(len(pages) * PAGE), advice):
        raise OSError(ctypes.get_errno(), "madvise")
