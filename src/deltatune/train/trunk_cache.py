"""The frozen trunk's answers kept on disk: from the second time on a text skips the layers below all deltas.

When every delta acts in the last layers alone (``LoRA(layers="last:4")``), what enters the first of these layers is a
function of the text, the same in each epoch. The first training call with a text runs the whole model and keeps it;
later calls whose texts are all kept pass over the layers below.

What is exact, and when:

- What is read is bit for bit what the trunk answered when the text was first trained on: the precision is that in which
  the first layer with a delta is given it. Loss and gradients of a call follow from it as they do from that answer.
- A trunk that ran again could differ from it by rounding, in another batch, or on another device or with another kind
  of attention: so much, and no more, can losses and gradients differ from those without a cache. Tokens that several
  texts of a packed batch share take the states of the first of these texts.
- Texts are told apart by all that their states depend on: tokens, positions, token types, the attention mask, and the
  precision of autocast. A text with other padding on its left is another one where positions are not given.
- Where there is padding, zeros stand in for the trunk's answers, which no token of a text sees.
- Another base, config, precision, or first layer with a delta, or a single other bit in the trunk's weights, and
  nothing is read of what was kept before; it is removed.

Everything else runs as without a cache: calls in evaluation with a text that was not trained on, with a key-value
cache, with embeddings in place of tokens, or that ask for hidden states or attention.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deltatune.attachment.attention import PACKED
from deltatune.attachment.calls import named_inputs
from deltatune.io.rows import KEY, RowStore, TextRows
from deltatune.packing.layout import Layout
from deltatune.train.trunk import Trunk, find_trunk, passing_over, replaced, running

__all__ = ["TrunkCache", "cached_trunk"]

COLUMNS = ("input_ids", "position_ids", "token_type_ids", "attention_mask")
"""The tensors of a call that states may depend on, a number a token each. A call with others runs as it always does."""


@contextlib.contextmanager
def cached_trunk(model: nn.Module, folder: str | Path) -> Iterator[TrunkCache]:
    """Within this context training calls of ``model`` keep what enters the first layer with a delta, and reuse it.

    It works for packed and for padded batches, under autocast, with checkpointed layers and within
    :func:`deltatune.train.lean.lean`. The layers below run without gradients. Several processes may share the folder,
    and a later run goes on with it. A training call answers without a key-value cache.

    Not for ``nn.DataParallel``; a compiled model runs as without a cache.

    Args:
        model: the model with its deltas, on the device on which it trains.
        folder: where to keep states; made if it is not there.

    Raises:
        AttachError: nothing is attached.
        ConfigError: there is no trunk, or its answers are not fixed: a delta acts in the first layer or before the
            layers, dropout is active, weights are trained or sharded, or layers hand on more than hidden states.
    """
    cache = TrunkCache(find_trunk(model), Path(folder))
    hooks = (
        cache.trunk.stack.register_forward_pre_hook(cache.enter, with_kwargs=True),
        cache.trunk.stack.register_forward_hook(cache.leave, always_call=True),
    )
    try:
        yield cache
    finally:
        for hook in hooks:
            hook.remove()
        cache.close()


class _Batch(NamedTuple):
    """The texts of a call."""

    texts: list[TextRows]
    rows: int
    """How many tokens it has, padding included."""


class TrunkCache:
    """What :func:`cached_trunk` keeps.

    Args:
        trunk: of the model.
        folder: where states are.
    """

    def __init__(self, trunk: Trunk, folder: Path) -> None:
        self.trunk = trunk
        self.store: RowStore | None = RowStore(folder, trunk.digest)
        """``None`` in a copy of the model, and when all is over."""
        self.reused = 0
        """How many calls have passed over the trunk."""
        self.call: contextlib.ExitStack | None = None
        """What ends the call under way, if it is one of ours."""

    def __len__(self) -> int:
        """How many texts are kept."""
        return 0 if self.store is None else len(self.store)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrunkCache:
        """A copied model brings its hooks along; files are not for two."""
        copied = object.__new__(TrunkCache)
        copied.trunk, copied.store, copied.reused, copied.call = self.trunk, None, 0, None
        return copied

    def bytes_for(self, tokens: int) -> int:
        """How much disk so many tokens take at the most; what texts of a batch share is kept once.

        Args:
            tokens: of all examples, each counted by itself, without padding.
        """
        width, dtype = self.trunk.shape
        return tokens * width * dtype.itemsize

    def commit(self) -> None:
        """Let other processes, and later runs, find what has been added. Done each minute and at the end anyway."""
        if self.store is not None:
            self.store.commit()

    def close(self) -> None:
        """Commit, and let go of the folder."""
        store, self.store = self.store, None
        if store is not None:
            store.close()

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before a call of the stack: choose what its lower layers do."""
        if self.store is None or self.call is not None or torch.compiler.is_compiling():
            return None
        inputs = named_inputs(module, args, kwargs)
        if module is not self.trunk.stack or not self._is_plain(inputs):
            return None
        batch = _batch(inputs)
        if batch is None:
            return None
        self.trunk.refuse_changes()
        if self.store.has(batch.texts):
            forwards = passing_over(self.trunk, self._states(batch))
            self.reused += 1
        elif module.training:
            forwards = running(self.trunk, lambda states: self._keep(batch, states))
        else:
            return None
        self.call = contextlib.ExitStack()
        self.call.enter_context(replaced(self.trunk.layers, forwards))
        return (), inputs | ({"use_cache": False} if _caches(module) else {})

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After the call, however it ended."""
        call, self.call = self.call, None
        if call is not None:
            call.close()

    def _is_plain(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a call needs nothing of the lower layers but what enters the layer above."""
        stack = self.trunk.stack
        if inputs.get("use_cache") or (not stack.training and inputs.get("use_cache") is None and _caches(stack)):
            return False
        config: Any = getattr(stack, "config", None)
        asked = (inputs.get(name) or getattr(config, name, False) for name in _OUTPUTS)
        return not any(asked) and not self.trunk.is_watched

    def _states(self, batch: _Batch) -> Tensor:
        assert self.store is not None
        kind, rows = self.store.read(batch.texts, batch.rows)
        return torch.from_numpy(rows).view(getattr(torch, kind))

    def _keep(self, batch: _Batch, states: Tensor) -> None:
        assert self.store is not None
        if states.shape[:-1].numel() == batch.rows:
            kind = str(states.dtype).removeprefix("torch.")
            flat = states.detach().reshape(batch.rows, -1).cpu().contiguous()
            self.store.add(kind, flat.view(torch.uint8).numpy(), batch.texts)


_OUTPUTS = ("output_hidden_states", "output_attentions", "output_router_logits")


def _caches(stack: nn.Module) -> bool:
    """Whether a stack makes a key-value cache unless it is told not to."""
    config: Any = getattr(stack, "config", None)
    return bool(getattr(config, "use_cache", False)) and "use_cache" in inspect.signature(stack.forward).parameters


def _batch(inputs: Mapping[str, Any]) -> _Batch | None:
    """The texts of a call, or ``None`` if their states depend on something that is not understood here."""
    layout = inputs.get(PACKED)
    if not all(_is_understood(name, value) for name, value in inputs.items()):
        return None
    ids = inputs.get("input_ids")
    if ids is None or ids.dim() != 2 or (layout is not None and not layout.texts):
        return None
    columns = {name: inputs[name] for name in COLUMNS if inputs.get(name) is not None}
    if layout is not None:
        columns.pop("attention_mask", None)
    if any(c.dim() != 2 or c.shape[1] != ids.shape[1] or c.shape[0] not in (1, len(ids)) for c in columns.values()):
        return None
    flat = {name: column.expand(ids.shape).reshape(-1).cpu().numpy() for name, column in columns.items()}
    tokens = np.arange(ids.numel())
    flat.setdefault("position_ids", tokens % ids.shape[1])
    flat.setdefault("attention_mask", np.ones_like(tokens))
    if layout is None:
        seen = flat["attention_mask"].reshape(ids.shape) != 0
        rows = [at * ids.shape[1] + np.flatnonzero(row) for at, row in enumerate(seen)]
    else:
        rows = [np.concatenate([np.arange(*span) for span in text]) for text in layout.texts]
    about = _precision(ids.device.type)
    return _Batch([TextRows(_key(about, flat, its, layout is not None), its) for its in rows], ids.numel())


def _is_understood(name: str, value: Any) -> bool:
    if isinstance(value, Tensor):
        return name in COLUMNS or not value.dim()
    return value is None or isinstance(value, (bool, int, float, str, Layout))


def _key(about: str, columns: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], is_packed: bool) -> bytes:
    """The digest of all that a text's states depend on."""
    digest = hashlib.blake2b(about.encode(), digest_size=KEY)
    # Tokens with unseen ones between them are further apart, which a sliding window or a relative position may see.
    places = np.arange(len(rows)) if is_packed else rows - rows[:1]
    for name, column in sorted({**{name: column[rows] for name, column in columns.items()}, "places": places}.items()):
        digest.update(f" {name} {len(column)} ".encode())
        digest.update(column.astype(np.int64).tobytes())
    return digest.digest()


def _precision(device: str) -> str:
    """The precision of autocast, if it is on."""
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return str(torch.get_autocast_dtype(device)) if is_on else ""
