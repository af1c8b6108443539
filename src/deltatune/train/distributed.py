"""Training in several processes: what they have to do alike, and deltas that are whole in each of them.

Accelerate wraps the model. Under DDP every process has a copy of it; under FSDP2 the base is spread over the processes.
The deltas stay out of the shards: they are small, their hooks run inside the base's layers, and methods work on whole
tensors (scores of all sites, masks, restarts). Each process holds them whole, their gradients are averaged once a step,
and what is saved is whole without being put together. So a checkpoint does not depend on how many processes wrote it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deltatune.attachment.bank import bank_of
from deltatune.attachment.sites import BANK
from deltatune.errors import ConfigError

__all__ = ["average_gradients", "drawing_alike", "is_main", "keep_whole", "replicate"]


def is_main() -> bool:
    """Whether this process is the one that writes: the only one, or the first of several."""
    return not _are_several() or dist.get_rank() == 0


def keep_whole(model: nn.Module, plugin: Any) -> None:
    """Let Accelerate's FSDP plugin shard the base of ``model`` alone, whenever it comes to it.

    Args:
        model: the model, with all the deltas it will have.
        plugin: a ``FullyShardedDataParallelPlugin``; its ``ignored_modules`` are added to.

    Raises:
        ConfigError: FSDP of the first version, another process's weights to be loaded, or a delta that trains the
            base's own parameters.
    """
    if plugin.fsdp_version != 2:
        raise ConfigError(
            f"fsdp_version: expected 2, found {plugin.fsdp_version}, which can not shard a base and leave deltas "
            "whole; set fsdp_version: 2"
        )
    if plugin.cpu_ram_efficient_loading:
        raise ConfigError(
            "fsdp_cpu_ram_efficient_loading: expected false, found true, which takes the deltas for a part of the "
            "base's file; set it to false"
        )
    bank = bank_of(model)
    for delta in bank:
        if delta.is_in_place:
            raise ConfigError(
                f"delta {delta.name!r}: expected a method beside the base's parameters, found {delta.method.key}, "
                "which works in them while FSDP spreads them; train it without FSDP"
            )
        for _, part in delta.items():
            part.release()
    ignored = plugin.ignored_modules
    plugin.ignored_modules = f"{ignored}|{BANK}" if isinstance(ignored, str) else [*(ignored or ()), bank]


def replicate(model: nn.Module, device: torch.device | str | None = None) -> None:
    """Give the deltas of ``model`` in every process the values of the main one, as DDP does with a whole model.

    Args:
        model: a model with deltas.
        device: where to move them first, which nobody else does if the base is sharded. Default: they stay.
    """
    bank = bank_of(model).to(device) if device is not None else bank_of(model)
    if _are_several():
        for tensor in (*bank.parameters(), *bank.buffers()):
            dist.broadcast(tensor.data, src=0)


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Put the mean over all processes into the gradients of the deltas, before each step if FSDP2 shards the base.

    ``dt.Trainer`` does it by itself, and DDP needs none of it. A parameter that one process did not use counts there as
    one with a gradient of zero.
    """
    trained = [parameter for parameter in bank_of(model).parameters() if parameter.requires_grad]
    if not (trained and _are_several()):
        return
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    together: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for gradient in gradients:
        together.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    for alike in together.values():  # one message, not one for each of hundreds of small tensors
        sums = torch.cat([gradient.reshape(-1) for gradient in alike])
        dist.all_reduce(sums)
        means = sums.div_(dist.get_world_size()).split([gradient.numel() for gradient in alike])
        for gradient, mean in zip(alike, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


@contextlib.contextmanager
def drawing_alike(device: torch.device) -> Iterator[None]:
    """Within this context all processes draw the same random numbers, and go on with their own after it.

    Their streams part during training, as their batches have other sizes. So they draw from a seed that the main
    process draws; a single process does the same, so that a run does not depend on how many there are.

    Args:
        device: where is drawn, beside the CPU.
    """
    seed = torch.randint(2**62, (), device="cpu")  # of the main process's stream, which a checkpoint keeps
    if _are_several():
        seed = seed.to(device)
        dist.broadcast(seed, src=0)
    own = {"devices": [device], "device_type": device.type} if device.type != "cpu" else {"devices": []}
    with torch.random.fork_rng(**own):
        torch.manual_seed(int(seed))
        yield


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
