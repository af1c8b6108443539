"""What all verbs share: how they are registered, how they fail, and how they print."""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import logging
import math
import os
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltatune.errors import ConfigError, DeltaError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AsJson", "Verb", "add", "check_new", "console", "note", "print_json"]

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]


@dataclass(frozen=True)
class Verb:
    """A verb of the command line: its function, whose name and docstring are the verb's, and examples for its help."""

    run: Callable[..., None]
    examples: tuple[tuple[str, str], ...]
    """A command line and what it does."""

    @property
    def epilog(self) -> str:
        """The examples, in rich's markup."""
        shown = (f"[bold]$ {_escaped(command)}[/]  [dim]# {what}[/]" for command, what in self.examples)
        return "Examples:\n\n" + "\n\n".join(shown)

    @property
    def help(self) -> str:
        """The docstring: its paragraphs in one line each, for the terminal to wrap, and indented blocks as they are."""
        paragraphs = inspect.cleandoc(self.run.__doc__ or "").split("\n\n")
        return "\n\n".join(_block(p) if p.startswith("  ") else " ".join(p.split()) for p in paragraphs)


def add(app: typer.Typer, verb: Verb) -> None:
    """Register a verb: with the option --debug, and with its failures turned into a line and an exit code."""
    hints = typing.get_type_hints(verb.run, include_extras=True)
    debug = Annotated[bool, typer.Option("--debug", help="On a failure, show Python's traceback.")]
    parameters = [
        *(p.replace(annotation=hints[name]) for name, p in inspect.signature(verb.run).parameters.items()),
        inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=debug),
    ]

    def command(**values: Any) -> None:
        with _reported(debug=values.pop("debug")):
            verb.run(**values)

    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.command(name=verb.run.__name__.rstrip("_"), help=verb.help, epilog=verb.epilog)(command)


@contextlib.contextmanager
def _reported(*, debug: bool) -> Iterator[None]:
    """A failure is one line on standard error and an exit code, never a traceback unless asked for."""
    with warnings.catch_warnings():
        if not debug:
            # The libraries below talk while they are imported; what matters here is said in our own words.
            warnings.simplefilter("ignore")
            os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
            logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        try:
            yield
        except (KeyboardInterrupt, Exception) as error:
            code = _exit_code(error)
            if debug or code is None:
                raise
            for line in _message(error).splitlines():
                note(line, kind="interrupted" if code == 130 else "error")
            raise typer.Exit(code) from None


def _exit_code(error: BaseException) -> int | None:
    """The exit code for a failure; `None` if the failure is not ours to report."""
    match error:
        case KeyboardInterrupt():
            return 130
        case DeltaError():
            return error.exit_code
        case FileNotFoundError() | NotADirectoryError() | IsADirectoryError() | PermissionError() | FileExistsError():
            return 2
        case OSError(errno=errno.EPIPE):
            return None
    return None if type(error).__module__.partition(".")[0] in ("click", "typer") else 1


def _message(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, KeyboardInterrupt):
        return text or "stopped by Ctrl-C"
    if isinstance(error, DeltaError):
        return text
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path"
    first = text.splitlines()[0] if text else "no message"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({first}); lower the batch size, or set train.gradient_checkpointing or base.quant"
    return f"{type(error).__name__}: {first}; add --debug for the traceback"


def note(text: str, kind: str = "note") -> None:
    """Print a line to standard error."""
    from rich.text import Text

    styles = {"error": "bold red", "interrupted": "bold yellow", "note": "bold"}
    console(stderr=True).print(Text.assemble((f"{kind}: ", styles[kind]), text), soft_wrap=True)


def console(*, stderr: bool = False) -> Console:
    """Where a verb prints what people read; standard error if standard output is for JSON."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def check_new(option: str, file: Path) -> None:
    """See that nothing is written over.

    Raises:
        ConfigError: the file that an option names is there.
    """
    if file.exists():
        raise ConfigError(f"{option} {file}: expected a new file, found one that is there; name another, or remove it")


def print_json(data: Mapping[str, Any]) -> None:
    """Print plain data as JSON to standard output; what is no finite number becomes null."""
    typer.echo(json.dumps(_plain(data), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _block(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
