"""Reading a table from wherever it is: a frame, a file, or a query to a database that can only be read."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from deltatune.apps.tab.columns import CODE, MISSING, present
from deltatune.errors import ConfigError, DataError

__all__ = ["FORMATS", "TableSource", "read_table", "split_target"]

TableSource: TypeAlias = "pd.DataFrame | str | Path"

DELIMITERS = ",;\t|"
CLASSES = 50  # a target of more different numbers is an amount
_CELLS: dict[str, Any] = {
    "skipinitialspace": True,
    "keep_default_na": False,  # "None" may be an answer
    "na_values": [form(word) for word in MISSING for form in (str.lower, str.upper, str.title)],
}
_DATA = re.compile(r"^@data\b.*$", re.IGNORECASE | re.MULTILINE)
_ATTRIBUTE = re.compile(r"^\s*@attribute\s+(?:(['\"])(.*?)\1|([^\s{]+))\s*(\S*)", re.IGNORECASE | re.MULTILINE)


def read_table(source: TableSource, query: str | None = None) -> pd.DataFrame:
    """Read a table.

    Args:
        source: a frame, which is taken as it is; a file ending in one of `FORMATS`; or with a query a database: a
            .sqlite, .db or .duckdb file, or an address as SQLAlchemy writes it. That needs the extra `[sql]`.
        query: SQL that reads; anything else is refused.

    Raises:
        ConfigError: the source is not there or of another kind; a database has no query, or a file or a frame has one.
        DataError: the file can not be read, or the query returns more than a million rows.
        QueryError: the database could not answer the query.
    """
    if isinstance(source, pd.DataFrame):
        if query is not None:
            raise ConfigError("query: expected a database to send it to, found a frame; leave it out")
        return source
    path = Path(source)
    if path.suffix.lower() in FORMATS and "://" not in str(source):
        if query is not None:
            raise ConfigError(f"query: expected a database to send it to, found {path.name}; leave it out")
        return _read_file(path)
    if query is None:
        known = ", ".join(FORMATS)
        raise ConfigError(f"table: expected a file ending in {known}, or a query beside a database, found {source}")
    return _read_query(source, query)


def split_target(frame: pd.DataFrame, target: str) -> tuple[pd.DataFrame, pd.Series]:
    """Split a table into the columns to classify by, and the class.

    Args:
        frame: the table.
        target: the column of the class.

    Raises:
        DataError: there is no such column or no other, rows have no class, or the target is an amount.
    """
    if target not in frame:
        known = ", ".join(map(str, frame.columns))
        raise DataError(f"target: expected a column among {known}, found {target!r}; choose one of them")
    labels = frame[target]
    if frame.shape[1] < 2:
        raise DataError(f"table: expected columns beside {target}, found none; give what the class depends on")
    if empty := int((~present(labels)).sum()):
        raise DataError(f"target: expected a class in each row, found none in {empty} of {len(frame)}; drop such rows")
    if _is_amount(labels):
        raise DataError(
            f"target: expected classes, found {labels.nunique()} different amounts in {target}; only classes can be "
            "predicted, so cut the amounts into some"
        )
    return frame.drop(columns=[target]), labels


def _is_amount(values: pd.Series) -> bool:
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    return values.nunique() > CLASSES or not (values == values.round()).all()


def _read_file(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ConfigError(f"table: expected a file, found nothing at {path}; check the path")
    try:
        frame = FORMATS[path.suffix.lower()](path)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors are among them
        reason = " ".join(str(error).split())
        raise DataError(f"{path.name}: expected a table, found {reason!r}; correct the file") from None
    if frame.empty:
        raise DataError(f"{path.name}: expected rows, found none; give some")
    return frame


def _read_delimited(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
    settings: dict[str, Any] = {"sep": max(DELIMITERS, key=header.count), "encoding": "utf-8-sig", **_CELLS}
    frame = _read_csv(path, **settings)
    # With one cell more than names pandas takes the first for the row's name. It is, unless lines end in a delimiter.
    if frame.iloc[:, -1].isna().all():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # says that there are more cells than names
            frame = _read_csv(path, index_col=False, **settings)
    return frame


def _read_csv(path: Path, **settings: Any) -> pd.DataFrame:
    """As pandas reads it, but for columns of codes, whose zeros at the beginning it would drop."""
    frame = pd.read_csv(path, **settings)
    cell = re.compile(rf"(?:^|[{re.escape(settings['sep'])}])\s*\"?{CODE.pattern}")
    with path.open(encoding=settings["encoding"], errors="replace") as lines:
        if not any(map(cell.search, lines)):  # most files have no codes, and are read once
            return frame
    written = pd.read_csv(path, dtype=str, **settings)
    numeric = [place for place, kind in enumerate(frame.dtypes) if pd.api.types.is_numeric_dtype(kind)]
    codes = [place for place in numeric if written.iloc[:, place].str.fullmatch(CODE.pattern).any()]
    for place in codes:
        frame.isetitem(place, written.iloc[:, place])
    return frame


def _read_jsonl(path: Path) -> pd.DataFrame:
    from deltatune.train.examples import RecordError
    from deltatune.train.readers import open_source

    rows = []
    for origin, row in open_source(path)[1]:
        if isinstance(row, RecordError) or not isinstance(row, dict):
            raise DataError(f"{origin}: expected an object, found {row}; correct it")
        rows.append(row)
    return pd.DataFrame.from_records(rows)


def _read_parquet(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path)


def _read_arff(path: Path) -> pd.DataFrame:
    """Weka's format. Of its header, names count, and which columns are words though they may look like numbers."""
    header, *data = _DATA.split(path.read_text(encoding="utf-8-sig"), maxsplit=1)
    columns = [(quoted or plain, kind) for _, quoted, plain, kind in _ATTRIBUTE.findall(header)]
    lines = [line for line in "".join(data).splitlines() if line.strip() and not line.startswith("%")]
    if not columns or not data:
        raise ValueError("no lines of @attribute and @data")
    if lines and lines[0].startswith("{"):
        raise ValueError("sparse rows, which are not read")
    return pd.read_csv(
        io.StringIO("\n".join(lines)),
        header=None,
        names=[name for name, _ in columns],
        index_col=False,
        dtype={name: str for name, kind in columns if kind.startswith("{")},
        quotechar="'" if "'" in "".join(lines) else '"',
        escapechar="\\",
        **_CELLS,
    )


def _read_query(source: str | Path, query: str) -> pd.DataFrame:
    from deltatune.apps.sql.run import Limits, open_reader

    limits = Limits(seconds=600, rows=1_000_000, bytes=1 << 30)
    with open_reader(source, limits=limits) as reader:
        result = reader.run(query)
    if result.cut:
        raise DataError(f"query: expected up to {limits.rows} rows or 1 GiB, found more; ask for fewer rows or columns")
    if not result.rows:
        raise DataError("query: expected rows, found none; ask for some")
    return pd.DataFrame(result.rows, columns=list(result.columns))


FORMATS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".arff": _read_arff,
    ".dat": _read_arff,  # KEEL's, which is ARFF with ranges
}
"""The files that can be read."""
