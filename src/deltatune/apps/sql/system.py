"""Training a Text-to-SQL system: a linker and a writer, from the same questions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import yaml

import deltatune
from deltatune.apps.sql.about import NOTHING_SAID, About
from deltatune.apps.sql.config import LinkerSpec, SqlConfig
from deltatune.apps.sql.examples import Example
from deltatune.apps.sql.folder import SystemFolder
from deltatune.apps.sql.gather import addresses, dataset_abouts, gather
from deltatune.apps.sql.linking import CrossEncoder, Settings, Training
from deltatune.apps.sql.linking.training import train as train_linker
from deltatune.apps.sql.source import Source, open_source
from deltatune.apps.sql.teaching import lessons
from deltatune.differing import refuse_others
from deltatune.errors import ConfigError
from deltatune.io.atomic import atomic_files
from deltatune.io.bases import load_tokenizer, locate
from deltatune.train.config import DataSpec, RunConfig
from deltatune.train.folder import RunFolder
from deltatune.train.run import RunResult, run

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["open_sources", "train_system", "writer_config"]

TAUGHT = {"base", "delta", "databases", "questions", "prompt", "linker"}
"""The settings that the linker, the writer's data and what is trained on them follow from."""


@contextmanager
def open_sources(
    found: Mapping[str, str], *, values: bool = True, abouts: Mapping[str, About] = MappingProxyType({})
) -> Iterator[dict[str, Source]]:
    """Databases by name, open while the block lasts.

    Args:
        found: name and address of each.
        values: index their values. Default: true.
        abouts: what is said of them elsewhere, by name.
    """
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                open_source(address, name=name, values=values, about=abouts.get(name, NOTHING_SAID))
            )
            for name, address in found.items()
        }


def train_system(
    config: SqlConfig, *, resume: bool = False, overwrite: bool = False, console: Console | None = None
) -> RunResult:
    """Train a linker and a writer as the settings say.

    Args:
        config: the settings.
        resume: keep what is done already: the linker, the data, and the writer up to its last checkpoint.
        overwrite: delete the system that is in the folder.
        console: where to show how it goes on. Default: standard output.

    Returns:
        The run of the writer.

    Raises:
        ConfigError: settings or data can not be used, or the folder holds a system already.
        DeltaError: training failed.
    """
    folder = SystemFolder(Path(config.output))
    _check(folder, config, resume=resume, overwrite=overwrite)
    if resume and folder.data.is_file():
        _write_config(folder, config)
    else:
        abouts = dataset_abouts(config.questions.dataset)
        with open_sources(addresses(config), values=config.prompt.values, abouts=abouts) as sources:
            examples = gather(config.questions, sources)
            _begin(folder, config)
            if config.linker is not None:
                _linker(config.linker, examples, sources, config.questions.seed, console).save(folder.linker)
            _write_lessons(folder, config, examples, sources)
    return run(writer_config(config, folder), resume=resume, overwrite=overwrite, console=console)


def writer_config(config: SqlConfig, folder: SystemFolder) -> RunConfig:
    """The settings of the writer's run."""
    return RunConfig(
        base=config.base,
        delta=config.delta,
        data=DataSpec(train=str(folder.data), eval_share=config.eval_share, on_overflow="error"),
        train=config.train,
        output=str(folder.writer),
    )


def _check(folder: SystemFolder, config: SqlConfig, *, resume: bool, overwrite: bool) -> None:
    """See that a system may be trained here. Nothing changes yet: it may still be refused for another reason."""
    if folder.config.is_file() and not (resume or overwrite):
        raise ConfigError(
            f"{folder.path}: expected a new folder, found a system; add --resume to go on, or --overwrite to start anew"
        )
    RunFolder(folder.writer).check(resume=resume, overwrite=overwrite)
    for base in (config.base.model, *([config.linker.base] if config.linker is not None else [])):
        locate(base)
    for file in config.questions.files:
        if not Path(file).is_file():
            raise ConfigError(f"questions.files: expected a file, found nothing at {file}; check the path")
    if resume and folder.data.is_file():
        begun, asked = (each.model_dump(mode="json", include=TAUGHT) for each in (folder.read_config(), config))
        refuse_others(folder.path, begun, asked)


def _begin(folder: SystemFolder, config: SqlConfig) -> None:
    """Make the folder ready: what another system was taught from goes."""
    for part in (folder.data.parent, folder.linker) if folder.config.is_file() else ():
        shutil.rmtree(part, ignore_errors=True)
    _write_config(folder, config)


def _write_config(folder: SystemFolder, config: SqlConfig) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with atomic_files(folder.path) as scratch:
        (scratch / folder.config.name).write_text(f"# deltatune {deltatune.__version__}\n{text}", encoding="utf-8")


def _linker(
    spec: LinkerSpec, examples: Sequence[Example], sources: Mapping[str, Source], seed: int, console: Console | None
) -> CrossEncoder:
    method = spec.method.build() if spec.method is not None else None
    linker = CrossEncoder.create(method, settings=Settings(base=spec.base), seed=seed)
    asked = {"steps": spec.steps, "lr": spec.learning_rate, "seed": seed}
    training = Training(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    train_linker(linker, examples, {name: source.schema for name, source in sources.items()}, training, console=console)
    return linker


def _write_lessons(
    folder: SystemFolder, config: SqlConfig, examples: Sequence[Example], sources: Mapping[str, Source]
) -> None:
    tokenizer = load_tokenizer(config.base.model)
    made = lessons(
        examples,
        sources,
        config.prompt,
        count=lambda text: len(tokenizer(text)["input_ids"]),
        seed=config.questions.seed,
    )
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in made]
    with atomic_files(folder.data.parent) as scratch:
        (scratch / folder.data.name).write_text("".join(lines), encoding="utf-8")
