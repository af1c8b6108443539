"""From a system's folder to a writer that is ready."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import deltatune as dt
from deltatune.apps.sql.folder import SystemFolder
from deltatune.apps.sql.prompts.prompting import Prompter
from deltatune.apps.sql.writer import Writer
from deltatune.errors import ConfigError
from deltatune.train.folder import RunFolder
from deltatune.train.opening import delta_folders, open_model

__all__ = ["open_writer", "put_on"]


def open_writer(
    folder: str | Path, *, dtype: str | None = None, quant: str | None = None, device: str | None = None
) -> Writer:
    """Load the parts of a system.

    Args:
        folder: what `train_system` made.
        dtype: of the base's weights. Default: as it was trained on.
        quant: as for `load_base`. Default: not quantised.
        device: where to. Default: the GPU if there is one.

    Raises:
        ConfigError: there is no system, or its training is not over.
        DeltaError: its parts do not fit.
    """
    system = SystemFolder(Path(folder))
    prompt = system.read_config().prompt
    if not RunFolder(system.writer).has_result:
        raise ConfigError(
            f"{folder}: expected a trained system, found one whose training is not over; go on by deltatune sql train "
            "CONFIG --resume"
        )
    base = open_model(str(system.writer), dtype=dtype, quant=quant, device=device).base
    prompter = Prompter(
        style=prompt.style(),
        linker=system.open_linker(),
        tables=prompt.tables,
        columns=prompt.columns,
        values=prompt.values,
        names=prompt.names,
        count=lambda text: len(base.tokenizer(text)["input_ids"]),
    )
    return Writer(base, prompter, answer=prompt.answer, joins=prompt.joins)


def put_on(writer: Writer, systems: Sequence[Path]) -> list[str]:
    """Put the deltas of several systems on the writer's model in place of its own, each called as its folder.

    Raises:
        ConfigError: a system has no one delta.
        DeltaError: one was trained on another base, or two folders have the same name.
    """
    model = writer.base.model
    for name in dt.deltas(model):
        dt.detach(model, name)
    names = [system.resolve().name for system in systems]
    for name, system in zip(names, systems, strict=True):
        found = delta_folders(SystemFolder(system).writer)
        if len(found) != 1:
            raise ConfigError(f"{system}: expected a system with one delta, found {len(found)}; name another")
        dt.load(model, found[0], name=name)
    return names
