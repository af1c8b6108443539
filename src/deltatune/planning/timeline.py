"""When each tensor's memory comes and goes, seen from below autograd; on the meta device, where none is taken."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Block", "Timeline"]


@dataclass(eq=False, slots=True)
class Block:
    """The memory of a tensor, and of all views of it."""

    nbytes: int
    operation: str
    """What made it."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    born: int
    """At which operation, counted from 1."""
    died: int | None = None
    """After which operation it was free again; ``None``: not yet."""

    def lives(self, moment: int) -> bool:
        """Whether it is there when that operation ends."""
        return self.born <= moment and (self.died is None or self.died >= moment)

    def outlives(self, moment: int) -> bool:
        """Whether it was there when that operation ended, and still when the next one did."""
        return self.born <= moment and (self.died is None or self.died > moment)


class Timeline(TorchDispatchMode):
    """Within this context every tensor that is made is noted, in backward passes too.

    ``operations`` counts those of matrix products, in floating point; a product and a sum are two.

    Args:
        known: tensors that are there before, which do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks: list[Block] = []
        self.now = 0
        self.operations = 0
        self._alive: dict[int, Any] = {id(storage): storage for storage in (t.untyped_storage() for t in known)}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.now += 1
        self.operations += _operations(function, args, made)
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor, str(function))
        return made

    def _note(self, tensor: Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        number = id(storage)  # its own for as long as it lives, whatever looks at it
        if number not in self._alive and storage.nbytes():
            block = Block(storage.nbytes(), operation, tuple(tensor.shape), tensor.dtype, born=self.now)
            self.blocks.append(block)
            self._alive[number] = (weakref.ref(storage, self._noting_the_end(number, block)), block)

    def _noting_the_end(self, number: int, block: Block) -> Callable[[Any], None]:
        def end(_: Any) -> None:
            block.died = self.now
            self._alive.pop(number, None)

        return end

    def block_of(self, tensor: Tensor) -> Block | None:
        """The memory of a tensor; ``None`` if it was there before."""
        found = self._alive.get(id(tensor.untyped_storage()))
        return found[1] if isinstance(found, tuple) else None

    def live(self, moment: int) -> list[Block]:
        """What is there when an operation ends."""
        return [block for block in self.blocks if block.lives(moment)]

    def most(self) -> int:
        """The most memory that is taken at a time, in bytes."""
        return sum(block.nbytes for block in self.live(self.peak()))

    def peak(self) -> int:
        """The first operation at whose end the most memory is taken; 0 if there is none."""
        came, went = [0] * (self.now + 2), [0] * (self.now + 2)
        for block in self.blocks:
            came[block.born] += block.nbytes
            went[self.now + 1 if block.died is None else block.died] += block.nbytes
        sizes = accumulate(new - old for new, old in zip(came, [0, *went], strict=False))
        return max(enumerate(sizes), key=lambda size: size[1])[0]


_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1, "_grouped_mm": 0}
"""Products of matrices, and which argument is the first of the two."""


def _operations(function: Any, args: tuple[Any, ...], made: Any) -> int:
    first = _PRODUCTS.get(function.overloadpacket.__name__)
    return 0 if first is None else 2 * made.numel() * args[first].shape[-1]
