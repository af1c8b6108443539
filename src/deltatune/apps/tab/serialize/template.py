"""A data set's own template: text with columns in braces, such as "A {age} year old {job}. Owns a house: {house}."."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from deltatune.errors import ConfigError

__all__ = ["Template", "parse_template"]

UNKNOWN = "unknown"
_END = re.compile(r"(?<=[.!?])(?=\s)|(?<=\n)")  # of a sentence, or of a line


@dataclass(frozen=True, slots=True)
class Template:
    """A template in pieces, each a sentence or a line.

    Args:
        pieces: for each its parts: text, and the column whose value comes behind it, if any.
    """

    pieces: tuple[tuple[tuple[str, str | None], ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it says, each once."""
        return tuple(dict.fromkeys(name for piece in self.pieces for _, name in piece if name is not None))

    def fill(self, values: Mapping[str, str | None], missing: str | None = None) -> str:
        """Say a row.

        A piece with columns of which none has a value is left out, unless there is a word for what is missing.

        Args:
            values: by column, ``None`` for a missing one.
            missing: what to say for it. Default: "unknown", beside others that have a value.
        """
        return "".join(
            "".join(text + (_value(values[name], missing) if name is not None else "") for text, name in piece)
            for piece in self.pieces
            if missing is not None or _speaks(piece, values)
        ).strip()


def parse_template(template: str) -> Template:
    """Read a template. `{{` and `}}` stand for braces.

    Raises:
        ConfigError: braces do not match, or hold more or less than the name of a column.
    """
    pieces: list[list[tuple[str, str | None]]] = [[]]
    try:
        for literal, name, form, conversion in Formatter().parse(template):
            if form or conversion or name == "":
                raise ValueError(f"{{{name}}} is not only a column's name")
            *ended, last = _END.split(literal)
            for text in ended:
                pieces[-1].append((text, None))
                pieces.append([])
            pieces[-1].append((last, name))
    except ValueError as error:
        raise ConfigError(
            f"template: expected columns in braces, found {template!r} ({error}); write for example 'Age {{age}}.'"
        ) from None
    return Template(tuple(tuple(piece) for piece in pieces if piece))


def _value(value: str | None, missing: str | None) -> str:
    return (missing or UNKNOWN) if value is None else value


def _speaks(piece: Sequence[tuple[str, str | None]], values: Mapping[str, str | None]) -> bool:
    names = [name for _, name in piece if name is not None]
    return not names or any(values[name] is not None for name in names)
