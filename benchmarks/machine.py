"""What the figures were measured on, as a JSON string; a program of its own, so that its caller stays without torch."""

from __future__ import annotations

import json
import platform

import torch


def main() -> str:
    """The device, and the versions that matter."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return f"{device}, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    print(json.dumps(main()))
