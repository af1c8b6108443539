"""The errors deltatune raises: one line that names the thing, what was expected, what was found, what to do."""

from __future__ import annotations

__all__ = [
    "AttachError",
    "BaseMismatchError",
    "ConfigError",
    "DataError",
    "DeltaError",
    "FileFormatError",
    "MergeError",
    "SiteError",
    "first_line",
]


class DeltaError(Exception):
    """Any failure deltatune can name. The command line prints it as one line and exits 1, or 2 for bad input."""

    exit_code = 1


class ConfigError(DeltaError, ValueError):
    """A setting is out of range, unknown, or contradicts another."""

    exit_code = 2


class SiteError(ConfigError):
    """The targets, layers or exclusions of a method name no usable module of the base."""


class DataError(ConfigError):
    """A data file or record can not be used: it names the file, the line and the field."""


class AttachError(DeltaError, RuntimeError):
    """A delta can not be attached, found, routed or detached in the model's present state."""


class MergeError(DeltaError, RuntimeError):
    """A merge was refused or failed its checks; the base is as it was before."""


class FileFormatError(DeltaError, ValueError):
    """A file does not hold a whole, safe delta."""

    exit_code = 2


class BaseMismatchError(FileFormatError):
    """A delta was made on another base than the one it is being put on."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
