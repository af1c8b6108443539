"""`deltatune env`: what is installed, for bug reports."""

from __future__ import annotations

from typing import Any

from deltatune.cli.verb import AsJson, Verb, console, print_json

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "pydantic",
    "numpy",
    "bitsandbytes",
    "gguf",
    "matplotlib",
)


def env(json: AsJson = False) -> None:
    """Show versions, devices, threads and memory. Paste it into a bug report."""
    found = _environment()
    if json:
        print_json(found)
        return
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    for name, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{package} {version or 'absent'}" for package, version in value.items())
        table.add_row(name, ", ".join(value) if isinstance(value, list) else str(value))
    console().print(table)


def _environment() -> dict[str, Any]:
    import os
    import platform
    import sys

    import psutil
    import torch

    import deltatune
    from deltatune.io.bases import ALIASES
    from deltatune.sizes import size_text

    memory = psutil.virtual_memory()
    return {
        "deltatune": deltatune.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices() or ["cpu"],
        "bf16": torch.cuda.is_bf16_supported() if torch.cuda.is_available() else "on the CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": f"{size_text(memory.available)} free of {size_text(memory.total)}",
        "bases": [name for name, alias in ALIASES.items() if _is_there(alias.package)] or ["none installed"],
        "interpreter": "virtual environment" if sys.prefix != sys.base_prefix else "system",
    }


def _devices() -> list[str]:
    import torch

    from deltatune.sizes import size_text

    if torch.cuda.is_available():
        every = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return [f"cuda:{i} {device.name}, {size_text(device.total_memory)}" for i, device in enumerate(every)]
    return ["mps"] if torch.backends.mps.is_available() else []


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _is_there(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


VERB = Verb(env, (("deltatune env", "for people"), ("deltatune env --json", "for machines")))
