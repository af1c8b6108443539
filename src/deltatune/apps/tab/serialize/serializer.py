"""The settings of a serializer, which do not depend on a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from deltatune.apps.tab.columns import KINDS, MISSING, Kind
from deltatune.apps.tab.serialize.permute import Bins, Words
from deltatune.apps.tab.serialize.styles import STYLES, Style
from deltatune.apps.tab.serialize.template import parse_template
from deltatune.apps.tab.serialize.values import DIGITS
from deltatune.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from deltatune.apps.tab.serialize.fitted import FittedSerializer

__all__ = ["Permuted", "Serializer", "parsed"]

Permuted = Literal["names", "values"]
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Serializer:
    """How rows become text.

    Overrides are by the column's name in the table.

    Args:
        style: "text" ("The age is 41."), "list" ("- age: 41", a line each), "values" ("- 41") or "custom".
        template: for "custom": text with columns in braces. A sentence or line is left out if it has columns, and none
            of them a value.
        note: a sentence before each row. Default: none.
        names: what to call columns. Default: their own names, in words.
        units: said behind values. Default: what stands in brackets behind the name of a column of numbers.
        formats: of numbers, as Python's `str.format` takes them: "{:,.2f}", "{:.0%}".
        kinds: of columns that should not be told from their values.
        digits: significant digits of numbers. Default: 15, all that are not noise.
        missing: what to say for a missing value. Default: leave it out.
        missing_spellings: what counts as missing, in any letter case, beside None and NaN.
        permute: the paper's ablations: let columns take each other's "names", or the "values" of each column each
            other's places. Default: neither.
        seed: of the permutation.
        images: what values become by a permutation that was drawn, by column. Default: it is drawn from the rows that
            the serializer is fitted to; see :meth:`permuting`.

    Raises:
        ConfigError: a setting has another form.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    style: Style = "text"
    template: str | None = None
    note: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    digits: int = DIGITS
    missing: str | None = None
    missing_spellings: tuple[str, ...] = MISSING
    permute: Permuted | None = None
    seed: int = 0
    images: Mapping[str, Words | Bins] | None = None

    def __post_init__(self) -> None:
        _check("style", self.style, STYLES)
        _check("permute", self.permute, (None, *get_args(Permuted)))
        for column, kind in self.kinds.items():
            _check(f"kind of {column}", kind, KINDS)
        if (self.style == "custom") != (self.template is not None):
            found = "none" if self.template is None else f"one beside the style {self.style!r}"
            raise ConfigError(
                f"template: expected one with the style 'custom' only, found {found}; set both or neither"
            )
        if self.permute == "names" and self.style not in ("text", "list"):
            raise ConfigError(f"permute: expected a style that says names, found {self.style!r}; use 'text' or 'list'")
        if not 1 <= self.digits <= DIGITS:
            raise ConfigError(f"digits: expected 1 to {DIGITS}, found {self.digits}; correct it")
        for column, form in self.formats.items():
            _check_format(column, form)
        if self.template is not None:
            parse_template(self.template)

    def fit(self, frame: pd.DataFrame, labels: Sequence[Any] | None = None) -> FittedSerializer:
        """Tell what the columns of a table hold.

        Args:
            frame: the rows to tell it from; the more the better.
            labels: their classes; with them columns are ranked by what they say about the class.

        Raises:
            ConfigError: a setting names a column that the table does not have.
            DataError: the table's columns can not be used, or there is not a label for each row.
        """
        from deltatune.apps.tab.serialize.fitting import fit

        return fit(self, frame, labels)

    def permuting(self, frame: pd.DataFrame) -> Serializer:
        """The serializer with the permutation of values drawn from a whole table.

        Drawn from a few rows it would leave out what these do not hold. No class is looked at.

        Args:
            frame: the table, of which rows to be told are a part.

        Raises:
            ConfigError: as for :meth:`fit`.
            DataError: as there.
        """
        if self.permute != "values" or self.images is not None:
            return self
        fitted = self.fit(frame)
        kinds = {str(column.name): column.kind for column in fitted.columns}
        return replace(self, images=fitted.permuted, kinds=kinds)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Serializer:
        """The settings from JSON.

        Raises:
            ConfigError: they have another form.
        """
        return parsed(cls, settings)


def parsed(kind: type[_Kind], settings: Mapping[str, Any]) -> _Kind:
    """A dataclass from JSON.

    Raises:
        ConfigError: it has another form.
    """
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "settings"
        raise ConfigError(f"serializer: expected another {place}, found {fault['msg']!r}; write it anew") from None


def _check(name: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        choices = ", ".join(map(repr, known))
        raise ConfigError(f"{name}: expected one of {choices}, found {value!r}; choose one of them")


def _check_format(column: str, form: str) -> None:
    try:
        said = form.format(1.5)
    except (ValueError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"format of {column}: expected one such as '{{:,.2f}}', found {form!r} ({error}); correct it"
        ) from None
    if said == form:
        raise ConfigError(f"format of {column}: expected one such as '{{:,.2f}}', found {form!r}; add the braces")
