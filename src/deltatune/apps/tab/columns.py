"""What the columns of a table hold, told from their values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import pandas as pd
from pydantic import ConfigDict

from deltatune.errors import ConfigError, DataError

__all__ = ["CODE", "FALSE", "KINDS", "MISSING", "TRUE", "ColumnInfo", "Kind", "columns_of", "present"]

Kind: TypeAlias = Literal["integer", "decimal", "flag", "category", "date", "text"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MISSING = (
    *("", "?", "-", "--", ".", "na", "n/a", "#n/a", "#na", "<na>", "n.a.", "nan", "-nan", "nat", "null", "(null)"),
    *("missing", "not available"),
)
"""How tables spell that a value is missing, in any letter case."""
NO_NUMBER = frozenset({"none", "unknown", "not known", "unspecified"})
"""What is missing only among numbers: among words it can be an answer, such as no guarantor."""

TRUE = frozenset({"yes", "true", "y", "t", "1", "1.0"})
FALSE = frozenset({"no", "false", "n", "f", "0", "0.0"})
CLEAR = frozenset({"yes", "no", "true", "false"})  # each tells a flag by itself; "f" alone may be a woman

ENOUGH = 10  # with fewer rows, a count that happens to be 0 or 1 looks like a flag
MANY = 20  # values, beyond which they are text if they differ in most rows
LONG = 60  # letters, and the same
DATE = re.compile(r"(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))(?:[T ](\d\d:\d\d)(?::\d\d(?:\.\d+)?)?\S*)?")
CODE = re.compile(r"[+-]?0\d+")
_UNIT = re.compile(r"(.*\S)\s*[(\[]([^()\[\]]{1,12})[)\]]")
_BREAKS = re.compile(r"[_\s]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d])\.(?=[^\W\d])")


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """One column of a table.

    Args:
        name: as the table has it.
        said: its name as texts say it.
        kind: what it holds.
        reason: what tells the kind.
        unit: of its values.
        information: what it says about the class, in nats; ``None`` where that is not known.
        left_out: why texts do not say it; empty if they do.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str | int
    said: str
    kind: Kind
    reason: str
    unit: str = ""
    information: float | None = None
    left_out: str = ""

    def __str__(self) -> str:
        left_out = f"; left out: {self.left_out}" if self.left_out else ""
        return f"{self.said}{f' ({self.unit})' if self.unit else ''}: {self.kind}, {self.reason}{left_out}"


def columns_of(
    frame: pd.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    missing: Collection[str] = MISSING,
) -> tuple[ColumnInfo, ...]:
    """Tell what each column holds.

    Args:
        frame: the table.
        names: what to call columns; by default their own names, in words.
        units: of columns; by default what stands in brackets behind the name of a number.
        kinds: of columns that should not be told from their values.
        missing: how missing values are spelled, in any letter case.

    Raises:
        ConfigError: a setting names a column that the table does not have.
        DataError: columns share a name, or a name is neither text nor a number.
    """
    known = _names(frame)
    for setting, chosen in (("names", names), ("units", units), ("kinds", kinds)):
        if unknown := sorted(set(chosen or ()) - {str(name) for name in known}):
            raise ConfigError(
                f"{setting}: expected columns among {', '.join(map(str, known))}, found {unknown[0]!r}; correct it"
            )
    return tuple(
        _column(name, frame[name], names or {}, units or {}, kinds or {}, frozenset(missing)) for name in known
    )


def present(values: pd.Series, missing: Collection[str] = MISSING) -> pd.Series:
    """Where a column has values.

    Args:
        values: the column.
        missing: how missing values are spelled, in any letter case.
    """
    there = values.notna()
    if pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_datetime64_any_dtype(values.dtype):
        return there
    return there & ~values.astype(str).str.strip().str.casefold().isin(list(missing))


def _names(frame: pd.DataFrame) -> list[str | int]:
    names: list[str | int] = frame.columns.tolist()
    if not names:
        raise DataError("table: expected columns, found none; give some")
    for name in names:
        if not isinstance(name, (str, int)):
            raise DataError(f"table: expected names of columns as text, found {name!r}; rename it")
    if len({str(name) for name in names}) < len(names):
        twice = next(name for name in names if [str(other) for other in names].count(str(name)) > 1)
        raise DataError(f"table: expected different names of columns, found {twice!r} twice; rename one")
    return names


def _column(
    name: str | int,
    values: pd.Series,
    names: Mapping[str, str],
    units: Mapping[str, str],
    kinds: Mapping[str, Kind],
    missing: frozenset[str],
) -> ColumnInfo:
    there = values[present(values, missing)]
    kind, reason = (kinds[str(name)], "as set") if str(name) in kinds else _kind(there)
    said, unit = str(name), ""
    if kind in ("integer", "decimal") and (found := _UNIT.fullmatch(said)):
        said, unit = found[1], found[2]
    said = _in_words(said) if isinstance(name, str) else f"column {name}"
    left_out = "no row has a value" if len(values) and there.empty else ""
    return ColumnInfo(name, names.get(str(name), said), kind, reason, units.get(str(name), unit), left_out=left_out)


def _in_words(name: str) -> str:
    """`bloodPressure` and `Blood_Pressure` as "blood pressure"; what is all in capitals stays so."""
    words = [word for word in _BREAKS.split(name) if word]
    return " ".join(word.lower() if word[:1].isupper() and word[1:].islower() else word for word in words) or name


def _kind(there: pd.Series) -> tuple[Kind, str]:
    """What the values of a column are, none of them missing."""
    if there.empty:
        return "category", "without a value"
    if isinstance(there.dtype, pd.CategoricalDtype):
        return "category", "as its type says"
    if pd.api.types.is_bool_dtype(there.dtype):
        return "flag", "as its type says"
    if pd.api.types.is_datetime64_any_dtype(there.dtype):
        return "date", "as its type says"
    if pd.api.types.is_numeric_dtype(there.dtype):
        return _kind_of_numbers(there)
    return _kind_of_words(there.astype(str).str.strip())


def _kind_of_words(words: pd.Series) -> tuple[Kind, str]:
    folded = set(words.str.casefold())
    if folded <= CLEAR or folded in ({"y", "n"}, {"t", "f"}):
        return "flag", f"all values are {' or '.join(sorted(folded))}"
    numbers = pd.to_numeric(words.where(~words.str.casefold().isin(NO_NUMBER)), errors="coerce")
    unclear = numbers.isna() & ~words.str.casefold().isin(NO_NUMBER)
    if not unclear.any() and numbers.notna().any():
        if words.str.fullmatch(CODE.pattern).any():
            return "category", "digits that begin with 0 are a code"
        return _kind_of_numbers(numbers.dropna())
    if words.str.fullmatch(DATE.pattern).all():
        return "date", f"days from {words.min()[:10]} to {words.max()[:10]}"
    longest, different = int(words.str.len().max()), words.nunique()
    if different > len(words) / 2 and (different > MANY or longest > LONG):
        return "text", f"{different} different values in {len(words)} rows, up to {longest} letters long"
    return "category", f"{different} different value{'s' if different > 1 else ''}"


def _kind_of_numbers(numbers: pd.Series) -> tuple[Kind, str]:
    values: Any = numbers.to_numpy(dtype=float)
    if set(values.tolist()) == {0.0, 1.0} and len(values) >= ENOUGH:
        return "flag", "all values are 0 or 1"
    whole = bool((values == values.round()).all())
    return ("integer" if whole else "decimal"), f"numbers from {values.min():g} to {values.max():g}"
