"""The libraries that load models, without their talk: silent while they work, and their errors in a line."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator

from deltatune.errors import DeltaError

__all__ = ["quiet", "require"]

TALKATIVE = ("transformers", "huggingface_hub", "bitsandbytes")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the loading libraries silent, and leave their settings as the user had them."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as bars

    shown, hub_shown = bars.is_progress_bar_enabled(), not are_progress_bars_disabled()
    levels = {logger: logger.level for logger in map(logging.getLogger, TALKATIVE)}
    bars.disable_progress_bar()
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()
        (enable_progress_bars if hub_shown else disable_progress_bars)()


def require(package: str, what: str) -> None:
    """Refuse to go on without a package.

    Raises:
        DeltaError: it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise DeltaError(f"{what}: needs the package {package}, found none; run pip install {package}")
